"""The cookie jar of one virtual user: host-only cookies with path, expiry and the secure flag (RFC 6265,
5.3–5.4).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime


@dataclass(slots=True)
class _Cookie:
    value: str
    path: str
    secure: bool
    expires: float | None


class CookieJar:
    """Cookies by origin host. ``Domain`` is not widened: a cookie goes back to the host that set it and
    nowhere else.
    """

    __slots__ = ("_by_host",)

    def __init__(self) -> None:
        self._by_host: dict[str, dict[tuple[str, str], _Cookie]] = {}

    def store(self, host: str, request_path: str, header: str) -> None:
        """Take one ``Set-Cookie`` value. One that has no name is ignored, as browsers do."""
        pair, *attributes = header.split(";")
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            return
        path, secure, expires, max_age = "", False, None, None
        for attribute in attributes:
            key, _, text = attribute.partition("=")
            key, text = key.strip().lower(), text.strip()
            if key == "path" and text.startswith("/"):
                path = text
            elif key == "secure":
                secure = True
            elif key == "max-age" and text.lstrip("-").isdigit():
                max_age = time.time() + int(text) if int(text) > 0 else 0.0
            elif key == "expires":
                expires = _date(text)
        if not path:
            path = request_path.partition("?")[0].rpartition("/")[0] or "/"
        cookie = _Cookie(value.strip().strip('"'), path, secure, max_age if max_age is not None else expires)
        cookies = self._by_host.setdefault(host, {})
        if cookie.expires is not None and cookie.expires <= time.time():
            cookies.pop((name, path), None)
        else:
            cookies[name, path] = cookie

    def header(self, host: str, path: str, secure: bool) -> str:
        """The ``Cookie`` value for a request, or ``""``. Longer paths first, as RFC 6265 wants."""
        cookies = self._by_host.get(host)
        if not cookies:
            return ""
        now = time.time()
        path = path.partition("?")[0]
        chosen = [
            (name, cookie)
            for (name, _), cookie in cookies.items()
            if (cookie.expires is None or cookie.expires > now)
            and (secure or not cookie.secure)
            and _matches(path, cookie.path)
        ]
        chosen.sort(key=lambda item: -len(item[1].path))
        return "; ".join(f"{name}={cookie.value}" for name, cookie in chosen)

    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of the first cookie of that name from any host."""
        for cookies in self._by_host.values():
            for (known, _), cookie in cookies.items():
                if known == name:
                    return cookie.value
        return default

    def set(self, host: str, name: str, value: str) -> None:
        """Put a session cookie into the jar by hand."""
        self._by_host.setdefault(host, {})[name, "/"] = _Cookie(value, "/", False, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_host.clear()

    def __len__(self) -> int:
        return sum(len(cookies) for cookies in self._by_host.values())

    def __repr__(self) -> str:
        names = sorted({name for cookies in self._by_host.values() for name, _ in cookies})
        return f"CookieJar({', '.join(names)})"


def _matches(path: str, prefix: str) -> bool:
    return path == prefix or (path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix)] == "/"))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
