"""What an administrator's request is about: parameters that are known, a head as the engine would read it, another
configuration. For every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Changes, Config, read_config
from tenfold.gateway.framing import Limits, Refusal, RequestHead, RequestReader

if TYPE_CHECKING:
    from tenfold.gateway.config import ConfigFile
    from tenfold.gateway.config.read import EngineName

_LIMITS: Final = Limits(head=64 * 1024, line=32 * 1024)


def head_of(method: str, url: str, headers: Mapping[str, Any] | None = None) -> RequestHead:
    """The head that a client would have sent for this URL. Raises `MisuseError` for what is no request."""
    if not isinstance(url, str):
        raise MisuseError(f'url: expected an address such as "http://shop.example/products/7", got {url!r}')
    try:
        parts = urlsplit(url)
    except ValueError:
        raise MisuseError(f"url: expected an address, got {url!r}") from None
    if parts.scheme not in ("", "http", "https"):
        raise MisuseError(f"url: expected http, https or a path alone, got {url!r}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if headers is not None and not isinstance(headers, Mapping):
        raise MisuseError(f"headers: expected a table of names and values, got {headers!r}")
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    if not any(name.lower() == "host" for name in (headers or {})):
        lines.insert(0, f"Host: {parts.netloc.rpartition('@')[2] or 'localhost'}")
    try:
        data = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("ascii")
    except UnicodeEncodeError:
        raise MisuseError(f"url: expected ASCII, other characters as %XX, got {url!r}") from None
    for event in RequestReader(_LIMITS).feed(data):
        if type(event) is RequestHead:
            return event
        if type(event) is Refusal:
            raise MisuseError(f"request: expected what the gateway would accept, got {url!r}: {event.sentence}")
    raise MisuseError(f"request: expected a whole head, got {data[:200]!r}")


class Reloadable(Protocol):
    """A gateway of any engine. ``file`` is where its configuration came from."""

    file: ConfigFile | None

    async def reload(self, config: Config) -> Changes: ...


def expect(params: Mapping[str, Any], *names: str) -> None:
    """Raises `MisuseError` for parameters of other names."""
    strange = [name for name in params if name not in names]
    if strange:
        raise MisuseError(f"parameters: expected {' or '.join(names) or 'none'}, got {', '.join(strange)}")


async def reload(gateway: Reloadable, params: Mapping[str, Any], engine: EngineName | None = None) -> dict[str, Any]:
    """Put the configuration of ``toml`` into force, or that of the gateway's file. Raises `MisuseError`."""
    expect(params, "toml")
    if "toml" in params:
        if not isinstance(params["toml"], str):
            raise MisuseError(f"toml: expected the text of a configuration, got {type(params['toml']).__name__}")
        changes = await gateway.reload(read_config(params["toml"], "reload", engine=engine))
        return {"changes": list(changes.lines())}
    if gateway.file is None:
        raise MisuseError("reload: expected the text of a configuration, because this gateway came from no file")

    async def take(config: Config, _: Changes) -> None:
        await gateway.reload(config)

    return {"changes": list((await gateway.file.reload(take)).lines())}
