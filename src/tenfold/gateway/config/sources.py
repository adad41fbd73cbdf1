"""Where the endpoints of a pool come from, and how they are asked whether they are well: the parts of `balance`, as a
file declares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path as FilePath
from typing import Any, Final
from urllib.parse import urlsplit

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold.balance.checks import Check, HttpCheck, TcpCheck
from tenfold.balance.discovery.base import Discovery
from tenfold.balance.discovery.declared import read_endpoints
from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.config.kinds import WRONG, Choice, Kind, Reading, Text, Whole, refused, span
from tenfold.gateway.config.positions import Path
from tenfold.gateway.config.problems import Wrong
from tenfold.gateway.config.tables import Foreign, Options, option
from tenfold.resilience.config_read import _culprit, unknown

_FIELDS: Final = tuple(each.name for each in fields(Endpoint))


class EndpointsKind(Kind):
    """Urls, or tables with the fields of `Endpoint`; http, https and unix."""

    label = "list of urls and tables [Endpoint](#endpoint)"

    def value(self, given: Any) -> Any:
        if isinstance(given, tuple) and all(isinstance(each, Endpoint) for each in given):
            given = self.write(given)
        for each in given if isinstance(given, list) else ():
            self._check(each)
        try:
            return read_endpoints(given, "endpoints")
        except (MisuseError, TypeError) as exc:
            raise MisuseError(re.sub(r"^endpoints: (Endpoint( '[^']*')?: )?", "", str(exc))) from None

    def _check(self, each: Any) -> None:
        url = each.get("url") if isinstance(each, Mapping) else each
        if not isinstance(url, str):
            return  # `read_endpoints` has the sentence
        try:
            parts = urlsplit(url)
        except ValueError:
            return
        if "@" in parts.netloc:
            raise MisuseError("expected a url without a name and a password, which no gateway sends; leave them out")
        if parts.scheme == "tcp":
            raise refused("a url of http, https or unix, because a gateway speaks HTTP", url)
        if parts.scheme in ("http", "https") and (parts.path not in ("", "/") or parts.query or parts.fragment):
            raise refused("a url of scheme, host and port alone, because the path is the request's", url)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        if not isinstance(given, list) or not given:
            return reading.wrong(path, str(refused('a list of urls such as "http://127.0.0.1:9001"', given)))
        seen: dict[str, int] = {}
        found = []
        for number, each in enumerate(given):
            strange = [key for key in each if key not in _FIELDS] if isinstance(each, Mapping) else []
            found += [reading.wrong((*path, number, key), unknown(str(key), _FIELDS, "key")) for key in strange]
            if isinstance(each, Mapping) and "url" not in each:
                strange.append("url")
                found.append(reading.wrong((*path, number, "url"), "expected url, got none"))
            if strange:
                continue
            try:
                (endpoint,) = self.value([each])
            except MisuseError as exc:
                culprit = _culprit(str(exc), each) if isinstance(each, Mapping) else ""
                found.append(reading.wrong((*path, number, culprit) if culprit else (*path, number), str(exc)))
                continue
            if endpoint.id in seen:
                first = reading.findings.line((*path, seen[endpoint.id]))
                endpoint = reading.wrong(
                    (*path, number),
                    f"an endpoint of the id {endpoint.id!r} stands on line {first}; give each its own id",
                )
            else:
                seen[endpoint.id] = number
            found.append(endpoint)
        if any(each is WRONG for each in found):
            return WRONG
        return tuple(sorted(found, key=lambda endpoint: endpoint.id))

    def write(self, value: Any) -> Any:
        return [_endpoint(each) for each in value]


def _endpoint(endpoint: Endpoint) -> Any:
    found: dict[str, Any] = {"url": endpoint.url, "id": endpoint.id}
    if endpoint.weight != 1:
        found["weight"] = endpoint.weight
    if endpoint.zone:
        found["zone"] = endpoint.zone
    if endpoint.priority:
        found["priority"] = endpoint.priority
    if endpoint.metadata:
        found["metadata"] = dict(endpoint.metadata)
    return found


_SHAPES: Final = {
    "file": ("file", "every"),
    "dns": ("dns", "record", "port", "scheme", "least", "most"),
    "kubernetes": ("kubernetes", "namespace", "port", "scheme"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Options):
    """Endpoints that come and go: from a watched file, the DNS or Kubernetes, one of the three."""

    file: str | None = option(
        Text("a path that ends in .toml or .json", r".+\.(toml|json)"),
        "A TOML or JSON file with a list `endpoints`, read anew when it changes; relative to the working directory.",
        default=None,
    )
    every: float = option(span(), "How often the file is looked at.", default=1.0)
    dns: str | None = option(
        Text('a name such as "app.internal"', r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})"),
        "A name whose records are looked up anew when their time to live is over.",
        default=None,
    )
    record: str = option(Choice("A", "AAAA", "both", "SRV"), "Which records; all but SRV need `port`.", default="A")
    least: float = option(span(), "No look-up sooner than this after the last.", default=1.0)
    most: float = option(span(), "No look-up later than this after the last.", default=300.0)
    kubernetes: str | None = option(
        Text("the name of a service", r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"),
        "A service, whose EndpointSlices are watched.",
        default=None,
    )
    namespace: str | None = option(
        Text("the name of a namespace", r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"),
        "The namespace of the service; not given: the gateway's own.",
        default=None,
    )
    port: int | None = option(Whole(1, 65535), "The port of the addresses, or of the service.", default=None)
    scheme: str = option(Choice("http", "https"), "What the endpoints speak.", default="http")

    def _check(self) -> None:
        given = [name for name in _SHAPES if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise Wrong(given[1] if given else "", f"expected one of file, dns and kubernetes, got {got}")
        for name, default in (("every", 1.0), ("record", "A"), ("least", 1.0), ("most", 300.0), ("namespace", None),
                              ("port", None), ("scheme", "http")):  # fmt: skip
            if name not in _SHAPES[given[0]] and getattr(self, name) != default:
                raise Wrong(name, f"means nothing for endpoints from {given[0]}; leave it out")
        if self.dns is not None and (self.port is None) is not (self.record == "SRV"):
            raise Wrong(
                "port", "an SRV record says the port itself; leave it out" if self.port else "expected port, got none"
            )
        if self.most < self.least:
            raise Wrong("most", f"expected least ({self.least:g} s) or more, got {self.most:g} s")

    @property
    def kind(self) -> str:
        """``"file"``, ``"dns"`` or ``"kubernetes"``."""
        return next(name for name in _SHAPES if getattr(self, name) is not None)

    def __str__(self) -> str:
        return f"{self.kind} {getattr(self, self.kind)}"

    def make(
        self, *, clock: Clock = SYSTEM_CLOCK, random: Callable[[], float] | None = None, events: Hub = EVENTS
    ) -> Discovery:
        """The live source. Raises `MisuseError` where what it needs is not installed."""
        more: Any = {"clock": clock, "events": events} | ({} if random is None else {"random": random})
        if self.file is not None:
            from tenfold.balance.discovery.file import FromFile

            return FromFile(FilePath(self.file), every=self.every, **more)
        if self.dns is not None:
            from tenfold.balance.discovery.dns import FromDNS

            record: Any = self.record
            return FromDNS(
                self.dns, kind=record, port=self.port, scheme=self.scheme, least=self.least, most=self.most, **more
            )
        from tenfold.balance.discovery.kubernetes import FromKubernetes

        assert self.kubernetes is not None  # `_check`
        return FromKubernetes(self.kubernetes, namespace=self.namespace, port=self.port, scheme=self.scheme, **more)


_STATUSES: Final = re.compile(r"([1-5]\d\d)-([1-5]\d\d)", re.ASCII)


def _expect(given: Any) -> Any:
    if isinstance(given, str) and (match := _STATUSES.fullmatch(given)) is not None:
        first, last = int(match[1]), int(match[2])
        if first <= last:
            return range(first, last + 1)
    if isinstance(given, list | tuple) and given and all(type(each) is int and 100 <= each <= 599 for each in given):
        return frozenset(given)
    raise refused('statuses such as "200-399" or [200, 204]', given)


def _expected(held: Any) -> Any:
    return f"{held.start}-{held.stop - 1}" if isinstance(held, range) else sorted(held)


class CheckKind(Kind):
    """``"/health"``, ``{ path = "/health" }`` or ``{ tcp = true }``, with the options of `HttpCheck` and `TcpCheck`."""

    _TLS: Final = "is made of the pool's tls; leave it out"
    http: Final = Foreign(
        HttpCheck, main="path", without={"tls": _TLS}, convert={"expect": _expect}, back={"expect": _expected}
    )
    tcp: Final = Foreign(TcpCheck, without={"tls": _TLS})
    label = (
        "table [HttpCheck](#httpcheck), its `path` alone, true or false; table [TcpCheck](#tcpcheck) with `tcp = true`"
    )

    def value(self, given: Any) -> Any:
        if given is None or isinstance(given, Check):
            return given
        raise refused("an HttpCheck or a TcpCheck", given)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        if isinstance(given, Mapping) and "tcp" in given:
            if given["tcp"] is True:
                rest = {name: each for name, each in given.items() if name != "tcp"}
                return self.tcp.read(rest, path, reading)
            if given["tcp"] is not False:
                return reading.wrong((*path, "tcp"), str(refused("true or false", given["tcp"])))
            given = {name: each for name, each in given.items() if name != "tcp"}
        return self.http.read(given, path, reading)

    def write(self, value: Any) -> Any:
        if isinstance(value, TcpCheck):
            return {"tcp": True, **self.tcp.write(value)}
        return self.http.write(value)
