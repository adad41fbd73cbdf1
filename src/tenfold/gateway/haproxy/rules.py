"""Routes as the rules of HAProxy's frontend. Pure.

Theory. `Router` asks tables; HAProxy tries rules in order and stops at the first that fits. Both are the same where the
rules stand in the order in which the router prefers: exact host, longest wildcard, none; exact path, longest prefix;
most headers; methods; the earlier in the file. A route of several hosts stands there once for each. The first rule that
fits puts the route's name into ``txn.route``, and all that the route says of its requests goes by that name; where one
route takes all there is no such variable and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any, Final

from tenfold.gateway.config import Config, HeaderChanges, Route
from tenfold.gateway.engine import problem
from tenfold.gateway.engine.problem import Fault
from tenfold.gateway.haproxy.faults import LENGTH, rate, refuse, told
from tenfold.gateway.haproxy.quote import argument, literal, word
from tenfold.resilience.deadline import TIMEOUT_HEADER

_MILLION: Final = 1_000_000


def takes_all(config: Config) -> Route | None:
    """The route that all requests take, where there is but one."""
    first = config.routes[0]
    plain = first.path == "/" and not (first.exact or first.host or first.methods or first.headers)
    return first if len(config.routes) == 1 and plain else None


def ordered(config: Config) -> list[tuple[Route, str]]:
    """Routes and one host of each (``""``: any), in the order in which they are tried."""
    rows = []
    for number, route in enumerate(config.routes):
        for host in route.host or ("",):
            specific = (0, 0) if host and not host.startswith("*.") else (1, -len(host)) if host else (2, 0)
            length = len(route.path) if route.exact else len(route.path.rstrip("/"))
            rank = (*specific, not route.exact, -length, -len(route.headers), not route.methods, number)
            rows.append((rank, (route, host.lower())))
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


class Rules:
    """The rules of one configuration. ``client`` is the expression of the client's address."""

    def __init__(self, config: Config, client: str) -> None:
        self.config = config
        self.client = client
        self.all = takes_all(config)
        self.acls: list[str] = []
        self._known: dict[str, str] = {}

    def acl(self, *tests: str) -> str:
        """The name of a condition that holds if one of ``tests`` does."""
        text = "\0".join(tests)
        name = self._known.get(text)
        if name is None:
            name = self._known[text] = f"c{len(self._known)}"
            self.acls += [f"acl {name} {test}" for test in tests]
        return name

    def of(self, route: Route) -> str:
        """The condition that a request is the route's; ``""`` for always."""
        return "" if self.all is not None else self.acl(f"var(txn.route) -m str {route.name}")

    def iff(self, *conditions: str) -> str:
        """`` if …``, or nothing."""
        held = " ".join(each for each in conditions if each)
        return f" if {held}" if held else ""

    def refuse(self, fault: Fault, condition: str, more: str = "", route: Route | None = None) -> str:
        """A rule that answers with a problem."""
        return refuse(fault, told(fault, self.config, route=route), condition, more)

    # -- which route --------------------------------------------------------------------------------------------------

    def choosing(self) -> Iterator[str]:
        """Rules that find the route."""
        if self.all is not None:
            return
        dots = self.acl(r"path -m reg -i " + word(r"/(\.|%2e){1,2}(/|$)"))
        yield self.refuse(problem.DOTS, f"{self.acl('path -m sub /. /%')} {dots}")
        rows = ordered(self.config)
        if any(host for _, host in rows):
            yield "http-request set-var(txn.host) req.hdr(host),host_only,lower"
        undecided = "!" + self.acl("var(txn.route) -m found")
        for number, (route, host) in enumerate(rows):
            found = [undecided] if number else []
            found += self._host(host) + self._path(route)
            if route.methods:
                found.append(self.acl(f"method {' '.join(route.methods)}"))
            found += [each for name, wanted in route.headers.items() for each in self._header(name, wanted)]
            yield f"http-request set-var(txn.route) str({route.name}){self.iff(*found)}"
        yield self.refuse(problem.NO_ROUTE, undecided)

    def _host(self, host: str) -> list[str]:
        if not host:
            return []
        how, name = ("end", host[1:]) if host.startswith("*.") else ("str", host)
        return [self.acl(f"var(txn.host) -m {how} -- {name} {name}.")]

    def _path(self, route: Route) -> list[str]:
        if route.exact:
            return [self.acl(f"path -m str -- {word(route.path)}")]
        prefix = route.path.rstrip("/")
        if not prefix:
            return []
        return [self.acl(f"path -m str -- {word(prefix)}", f"path -m beg -- {word(prefix + '/')}")]

    def _header(self, name: str, wanted: str | bool) -> list[str]:
        count = f"req.fhdr_cnt({argument(name)})"
        if isinstance(wanted, bool):
            there = self.acl(f"{word(count)} gt 0")
            return [there if wanted else f"!{there}"]
        value = f"{word(f'req.fhdr({argument(name)})')} -m str -- {word(wanted)}"
        return [self.acl(f"{word(count)} eq 1"), self.acl(value)]

    # -- what becomes of its requests ---------------------------------------------------------------------------------

    def acting(self, route: Route) -> Iterator[str]:
        """All that a route says of its requests, but what a backend does."""
        mine = self.of(route)
        most = self.config.gateway.body_max if route.body_max is None else route.body_max
        if most is not None:
            chunked = self.acl("req.hdr_cnt(transfer-encoding) gt 0")
            yield self.refuse(LENGTH, f"{mine} {chunked}", route=route)
            unsaid = [self.acl("req.ver 2.0"), self.acl("method POST PUT PATCH"), "!" + self.acl("req.hdr_cnt(content-length) gt 0")]  # fmt: skip # noqa: E501
            if self.config.gateway.http2:
                yield self.refuse(LENGTH, " ".join([mine, *unsaid]), route=route)
            yield self.refuse(problem.BODY_MAX, f"{mine} {self.acl(f'req.body_size gt {most}')}", route=route)
        yield from self._limited(route, mine)
        if route.pool is None:
            yield self._own(route, mine)
            return
        if route.deadline is not None:
            allowed = max(1, round(route.deadline * 1000))
            less = self.acl(f"req.hdr({TIMEOUT_HEADER}) -m int lt {allowed}")
            yield f"http-request set-header {TIMEOUT_HEADER} {allowed}{self.iff(mine, '!' + less)}"
        if route.strip_prefix:
            size = len(route.path.rstrip("/").encode())
            prefix = literal(route.path.rstrip("/"))
            yield f"http-request set-header X-Forwarded-Prefix {word(prefix)}{self.iff(mine)}"
            yield f"http-request replace-path {word(f'^.{{{size}}}/?(.*)$')} {word('/' + chr(92) + '1')}{self.iff(mine)}"  # noqa: E501
        yield from changed("http-request", route.request_headers, self.iff(mine))
        if route.canary is not None:
            yield from self._canary(route, mine)

    def _limited(self, route: Route, mine: str) -> Iterator[str]:
        limit = route.rate_limit
        if limit is None:
            return
        key = "str(all)" if route.limit_by is None else self.selected(route.limit_by)
        table = f"limit.{route.name}"
        window = float(limit.burst or 1) / float(limit.rate)
        yield f"http-request track-sc0 {word(key)} table {table}{self.iff(mine)}"
        over = self.acl(f"sc0_gpc0_rate({table}) ge {limit.burst}")
        yield self.refuse(rate(route), f"{mine} {over}", f" hdr Retry-After {max(1, ceil(window))}")
        yield f"http-request sc-inc-gpc0(0){self.iff(mine)}"

    def selected(self, selector: str) -> str:
        """The expression of what tells one user from another, before `word`."""
        kind, _, name = selector.partition(":")
        if kind == "client":
            return self.client
        return f"req.{'fhdr' if kind == 'header' else 'cook'}({argument(name)})"

    def _own(self, route: Route, mine: str) -> str:
        changes = route.response_headers
        lines: list[tuple[str, str]] = []
        if changes is not None:
            lines = [(name, literal(value)) for name, value in (*changes.set.items(), *changes.add.items())]
        if route.redirect is not None:
            lines.insert(0, ("Location", _location(route.redirect.to)))
            head = f"http-request return status {route.redirect.status}"
        else:
            respond: Any = route.respond
            head = f"http-request return status {respond.status}"
            if respond.body:
                head += f" content-type {word(respond.content_type)} string {word(respond.body)}"
        return head + "".join(f" hdr {word(name)} {word(value)}" for name, value in lines) + self.iff(mine)

    def _canary(self, route: Route, mine: str) -> Iterator[str]:
        """Decided once; who is not told apart gets chance. The hash is HAProxy's own, salted with both pools."""
        canary: Any = route.canary
        limit = round(canary.weight * _MILLION)
        place = f"rand({_MILLION})"
        yield f"http-request set-var(txn.place) {place}{self.iff(mine)}"
        if canary.by is not None:
            salt = sum(f"{canary.pool}/{route.pool}".encode()) * 2654435761 % 2**31
            who = self.selected(canary.by)
            there = self.acl(f"{word(who)} -m len gt 0") if canary.by != "client" else ""
            hashed = word(f"{who},xxh32({salt}),mod({_MILLION})")
            yield f"http-request set-var(txn.place) {hashed}{self.iff(mine, there)}"
        if canary.header is not None:
            asked = word(f"req.fhdr({argument(canary.header)}),lower")
            for value, where in (("always", -1), ("never", _MILLION)):
                yield f"http-request set-var(txn.place) int({where}){self.iff(mine, self.acl(f'{asked} -m str {value}'))}"  # noqa: E501
        chosen = self.acl(f"var(txn.place) -m int lt {limit}")
        yield f"http-request set-var(txn.canary) bool(true){self.iff(mine, chosen)}"

    def going(self) -> Iterator[str]:
        """To which backend."""
        for route in self.config.routes:
            if route.pool is None:
                continue
            mine = self.of(route)
            if route.canary is not None:
                yield f"use_backend pool.{route.canary.pool}{self.iff(mine, self.acl('var(txn.canary) -m bool'))}"
            if mine:
                yield f"use_backend pool.{route.pool} if {mine}"
            else:
                yield f"default_backend pool.{route.pool}"


def changed(where: str, changes: HeaderChanges | None, condition: str) -> Iterator[str]:
    """Header changes as rules of ``http-request`` or ``http-response``."""
    if changes is None:
        return
    for name in changes.remove:
        yield f"{where} del-header {word(name)}{condition}"
    for name, value in changes.set.items():
        yield f"{where} set-header {word(name)} {word(literal(value))}{condition}"
    for name, value in changes.add.items():
        yield f"{where} add-header {word(name)} {word(literal(value))}{condition}"


def _location(to: str) -> str:
    query = "%[pathq,regsub('^[^?]*','')]"
    found = literal(to)
    return found.replace("{host}", "%[req.hdr(host)]").replace("{path}", "%[path]").replace("{query}", query)
