"""Where an endpoint is, as an HTTP client wants to know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.balance.endpoint import Endpoint


def base_of(endpoint: Endpoint) -> dict[str, Any]:
    """Scheme, host, port and authority that requests to ``endpoint`` get.

    Raises `MisuseError` for a url that says more, and for a scheme that is not HTTP's.
    """
    parts = urlsplit(endpoint.url)
    if parts.scheme == "unix":
        return {"scheme": "http", "host": "localhost", "port": None, "authority": "localhost"}
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query or not parts.hostname:
        raise MisuseError(
            f"endpoint {endpoint.id!r}: expected a url of scheme, host and port such as "
            f'"http://10.0.0.1:8000", got {endpoint.url!r}; the path is the request\'s own'
        )
    authority = parts.netloc.rpartition("@")[2]
    return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port, "authority": authority}
