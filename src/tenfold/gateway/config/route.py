"""Which route a request takes: the routes compiled to look-ups. Pure.

Theory. Routers that try one route after another cost as much as there are routes; this one asks tables. A request can
meet a route by its host, by a wildcard above it (one for each dot), or by no host at all, and within a host by its
exact path or by one of the prefixes of its path (one for each slash). All of these are keys of dictionaries, so the
number of look-ups depends on the request and on how deep the deepest route is, and not on how many there are. What is
left to try one after another are routes of the same host and path, which differ by headers and methods.

The order is that of the Kubernetes Gateway API: exact host, longest wildcard, no host; exact path, longest prefix; most
headers; methods; the earlier in the file. A host without a fitting path does not hide routes of the next host in that
order. Prefixes go by whole segments, because `/api` must not open `/apikeys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tenfold.gateway.config.rule import Route

_EMPTY: Final[tuple[Route, ...]] = ()


class _Paths:
    """The routes of one host."""

    __slots__ = ("deepest", "exact", "prefixes")

    def __init__(self, routes: Iterable[Route]) -> None:
        exact: dict[str, list[Route]] = {}
        prefixes: dict[str, list[Route]] = {}
        for route in routes:
            path = route.path if route.exact else route.path.rstrip("/")
            (exact if route.exact else prefixes).setdefault(path, []).append(route)
        self.exact = {path: _ordered(several) for path, several in exact.items()}
        self.prefixes = {path: _ordered(several) for path, several in prefixes.items()}
        self.deepest = max((path.count("/") for path in self.prefixes), default=-1)

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> Route | None:
        for route in self.exact.get(path, _EMPTY):
            if _fits(route, method, headers):
                return route
        if self.deepest < 0:
            return None
        # The ends of the first segments, no more of them than any prefix has: a path of ten thousand slashes is cheap.
        ends = []
        at = 0
        for _ in range(self.deepest):
            at = path.find("/", at + 1)
            if at < 0:
                ends.append(len(path))
                break
            ends.append(at)
        prefixes = self.prefixes
        for end in reversed(ends):
            several = prefixes.get(path[:end])
            if several is not None:
                for route in several:
                    if _fits(route, method, headers):
                        return route
        for route in prefixes.get("", _EMPTY):
            if _fits(route, method, headers):
                return route
        return None


def _ordered(routes: list[Route]) -> tuple[Route, ...]:
    return tuple(sorted(routes, key=lambda route: (-len(route.headers), not route.methods)))  # stable: file order last


def _fits(route: Route, method: str, headers: Mapping[str, str]) -> bool:
    if route.methods and method not in route.methods:
        return False
    if not route.headers:
        return True
    for name, wanted in route.headers.items():
        found = headers.get(name)
        if wanted is True or wanted is False:
            if (found is not None) is not wanted:
                return False
        elif found != wanted:
            return False
    return True


class Router:
    """Finds the route of a request; made once for each configuration, and never changed."""

    __slots__ = ("_any", "_hosts", "_wildcards", "routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        hosts: dict[str, list[Route]] = {}
        wildcards: dict[str, list[Route]] = {}
        rest: list[Route] = []
        for route in self.routes:
            if not route.host:
                rest.append(route)
            for host in route.host:
                below = wildcards if host.startswith("*.") else hosts
                below.setdefault(host.removeprefix("*").lower(), []).append(route)
        self._hosts = {host: _Paths(several) for host, several in hosts.items()}
        self._wildcards = {host: _Paths(several) for host, several in wildcards.items()}
        self._any = _Paths(rest)

    def match(self, method: str, host: str, path: str, headers: Mapping[str, str]) -> Route | None:
        """The route, or None for a request that none is for.

        ``host`` may have a port, which is not looked at; ``path`` is without its query and is compared byte by byte:
        whoever normalises paths must do it before, and forward what was matched. The names in ``headers`` are
        lower-case.
        """
        if self._hosts or self._wildcards:
            name = _name(host)
            own = self._hosts.get(name)
            if own is not None and (found := own.find(method, path, headers)) is not None:
                return found
            if self._wildcards:
                dot = name.find(".", 1)
                while dot > 0:
                    own = self._wildcards.get(name[dot:])
                    if own is not None and (found := own.find(method, path, headers)) is not None:
                        return found
                    dot = name.find(".", dot + 1)
        return self._any.find(method, path, headers)

    def __repr__(self) -> str:
        return f"<Router of {len(self.routes)} routes, {len(self._hosts)} hosts, {len(self._wildcards)} wildcards>"


def _name(host: str) -> str:
    """A Host header without its port and last dot, in small letters."""
    colon = host.rfind(":")
    if colon > host.rfind("]"):
        host = host[:colon]
    return host.lower().removesuffix(".")
