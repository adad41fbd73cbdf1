"""Endpoints as people declare them in files: urls, or tables with the fields of `Endpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError
from tenfold.balance.discovery.base import as_set
from tenfold.balance.endpoint import Endpoint

_FIELDS: Final = ("id", "url", "weight", "zone", "priority", "metadata")


def read_endpoints(declared: object, where: str) -> tuple[Endpoint, ...]:
    """Endpoints from ``["http://10.0.0.1:8000", {url = "http://10.0.0.2:8000", weight = 2, zone = "eu-1"}]``.

    Without an ``id`` the host and port of the url (of ``unix``, the path) are it. ``where`` begins the sentences.
    Raises `MisuseError` for anything else, for unknown fields and for two of the same id.
    """
    if not isinstance(declared, list) or not declared:
        raise MisuseError(f"{where}: expected a list of at least one endpoint, got {declared!r}")
    return as_set((_endpoint(each, where) for each in declared), where)


def _endpoint(declared: object, where: str) -> Endpoint:
    table: Mapping[str, Any]
    if isinstance(declared, str):
        table = {"url": declared}
    elif isinstance(declared, Mapping):
        table = declared
    else:
        raise MisuseError(f'{where}: expected a url or a table such as {{url = "http://…"}}, got {declared!r}')
    unknown = [key for key in table if key not in _FIELDS]
    if unknown:
        raise MisuseError(f"{where}: an endpoint has no {unknown[0]!r}; it has {', '.join(_FIELDS)}")
    fields = dict(table)
    url = fields.pop("url", None)
    id = fields.pop("id", None)
    if "metadata" in fields:
        fields["metadata"] = _metadata(fields["metadata"], where)
    try:
        return Endpoint(_id_of(url) if id is None else id, url, **fields)
    except ValueError as error:  # a MisuseError is one, and so is what the standard library says of an odd url
        raise MisuseError(f"{where}: {error}") from None


def _id_of(url: object) -> str:
    if not isinstance(url, str):
        return "?"  # `Endpoint` refuses the url in a sentence of its own
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path or "?"


def _metadata(given: object, where: str) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(v, str) for pair in given.items() for v in pair):
        raise MisuseError(f"{where}: expected metadata of text to text, got {given!r}")
    return MappingProxyType(dict(given))
