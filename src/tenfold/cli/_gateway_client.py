"""A small client of a gateway's admin API: one request, one answer in JSON."""

from __future__ import annotations

import http.client
import json
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError, TenfoldError

if TYPE_CHECKING:
    from tenfold.gateway.config import Admin

TIMEOUT: Final = 15.0
DEFAULT: Final = Path("gateway.toml")


class AdminUnreachable(TenfoldError):
    """The admin API did not answer, or answered what cannot be used."""


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class AdminClient:
    """Asks the admin API at ``url`` (``http://127.0.0.1:8081``, ``unix:/run/admin.sock``) with ``token``."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token

    def _connection(self) -> http.client.HTTPConnection:
        if self.url.startswith("unix:"):
            return _Unix(self.url.removeprefix("unix:"))
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MisuseError(f'url: expected an address such as "http://127.0.0.1:8081", got {self.url!r}')
        made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return made(parts.hostname, parts.port, timeout=TIMEOUT)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer. Raises `MisuseError` for what the gateway refuses, `AdminUnreachable` where it is not there."""
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise AdminUnreachable(f"no admin API at {self.url}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()
        try:
            told = json.loads(raw)
        except ValueError:
            raise AdminUnreachable(f"expected a tenfold gateway at {self.url}, got no JSON") from None
        if not isinstance(told, dict):
            raise AdminUnreachable(f"expected a tenfold gateway at {self.url}, got other JSON")
        if response.status >= 400:
            problems = "".join(f"\n{each}" for each in told.get("problems", ()))
            raise MisuseError(f"{told.get('detail', response.reason)}{problems} (HTTP {response.status})")
        return told


def client_of(config: Path | None, url: str | None, token: str | None) -> AdminClient:
    """The client for what the command line says; what it does not say is in the gateway's own TOML file.

    Raises `MisuseError` where neither says it.
    """
    if url is not None and token is not None:
        return AdminClient(url, token)
    file = config if config is not None else DEFAULT if DEFAULT.exists() else None
    if file is None:
        raise MisuseError(
            "expected --config FILE, or --url and --token; got neither, and there is no gateway.toml here"
        )
    admin = _admin_of(file)
    if admin is None:
        raise MisuseError(f"{file}: expected an [admin] table, got none; the gateway has no admin API then")
    if url is None:
        if not admin.listen.path and not admin.listen.port:
            raise MisuseError(f"{file}: admin.listen has port 0, which the system chose; say --url")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.listen.host, admin.listen.host)
        where = f"[{host}]" if ":" in host else host
        url = str(admin.listen) if admin.listen.path else f"http://{where}:{admin.listen.port}"
    return AdminClient(url, admin.token.reveal() if token is None else token)


def _admin_of(file: Path) -> Admin | None:
    """The file's [admin] table, also where the rest of it is wrong: a gateway goes on with its last good configuration
    then, and whoever repairs it wants to look.
    """
    from tenfold.gateway.config import GatewayConfigError, load_config, read_config

    try:
        return load_config(file).admin
    except GatewayConfigError as error:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))["admin"]
            text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
            return read_config(f"{_LEAST}[admin]\n{text}", str(file)).admin
        except (OSError, ValueError, KeyError, AttributeError, TypeError, GatewayConfigError):
            raise error from None  # not even that can be read


_LEAST: Final = '[gateway]\nlisten = "127.0.0.1:0"\n[[route]]\nrespond = { status = 404 }\n'
