"""What an unsafe request makes invalid (RFC 9111 §4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urljoin

from tenfold.gateway.edge.message import Request, Response, url_key

SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
_NAMED: Final = (b"location", b"content-location")


def invalidated_by(request: Request, response: Response) -> list[bytes]:
    """The URLs whose stored responses no longer count: of an unsafe method (and one that nobody knows) that went well,
    its own, and what Location and Content-Location name on the same origin.
    """
    if request.method in SAFE or not 200 <= response.status <= 399:
        return []
    urls = [request.url]
    for url in _named(request.url, response.fields):
        if url not in urls:
            urls.append(url)
    return urls


def _named(base: bytes, fields: Mapping[bytes, bytes]) -> list[bytes]:
    found = []
    for name in _NAMED:
        value = fields.get(name)
        if value is None:
            continue
        try:
            joined = urljoin(base.decode("latin-1"), value.decode("latin-1").strip()).encode("latin-1")
        except ValueError:
            continue  # a host in brackets that is none: names nothing
        scheme, _, rest = joined.partition(b"://")
        host, slash, path = rest.partition(b"/")
        host, question, query = host.partition(b"?")
        target = slash + path if slash else b"/" + question + query
        url = url_key(scheme, host, target)
        if origin(url) == origin(base):
            found.append(url)
    return found


def origin(url: bytes) -> bytes:
    """Scheme and host of a key."""
    scheme, _, rest = url.partition(b"://")
    return scheme + b"://" + rest.partition(b"/")[0]
