"""A reverse proxy with an HTTP cache, from one configuration in TOML.

::

    from tenfold.gateway import Gateway, load_config

    async with Gateway(load_config("gateway.toml")) as gateway:
        print(gateway.addresses)

The embedded engine speaks HTTP/1.1 over TCP, TLS and unix sockets, in this process, or in several
(`tenfold.gateway.processes`); the same configuration runs on an HAProxy (`tenfold.gateway.haproxy`), HTTP/2 included.
What an engine cannot do is refused with a sentence where the configuration is read. Importing this package loads
neither httptools nor uvloop.
"""

from typing import TYPE_CHECKING, Any

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Config, ConfigFile, GatewayConfigError, load_config, read_config

if TYPE_CHECKING:
    from tenfold.gateway.engine import Gateway

__all__ = ["Config", "ConfigFile", "Gateway", "GatewayConfigError", "MisuseError", "load_config", "read_config"]


def __getattr__(name: str) -> Any:
    if name == "Gateway":
        from tenfold.gateway.engine import Gateway

        return Gateway
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
