"""A set that the DNS holds, looked up anew when its time to live is over.

Theory. Most clients resolve a name once, when they connect, and stay with one address for good: a server that was
added gets no work, one that was removed fails. The record says itself for how long it may be believed (its TTL,
RFC 1035, the least one along a chain of CNAMEs), so the next look-up is due then, within bounds: a TTL of 0 must not
make a storm, one of a day must not hide a move.

An A or AAAA record is an address, the port is given. SRV (RFC 2782) carries ports, weights and priorities too: the
lower its priority, the earlier it is used, which are made the groups 0, 1, 2, …; a weight of 0 means "a very small
chance beside others", not "none", and is made a hundredth of the least of the others in its group.

A name that does not exist (any more) is a failure and not an empty set: a zone that was reloaded half, or a resolver
in trouble, says the same, and to empty a balancer by mistake is worse than to keep servers that its checks can judge.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random as _random
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, whole_number
from tenfold.balance.discovery.base import LookFailed, Polled, as_set, positive
from tenfold.balance.endpoint import Endpoint

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer

Kind = Literal["A", "AAAA", "both", "SRV"]


class FromDNS(Polled):
    """The servers behind a name: ``FromDNS("app.internal", port=8000)`` or ``FromDNS("_http._tcp.app", kind="SRV")``.

    ``kind`` is ``"A"`` (default), ``"AAAA"``, ``"both"`` or ``"SRV"``; all but the last need ``port``. ``scheme``
    (``"http"``) begins the urls. Addresses are ids with their port, of SRV the target's name with its port; the name
    that was asked is in the metadata as ``"name"``. Looked up anew when the TTL is over, but not before ``least``
    (1 s) nor after ``most`` (5 min); a look-up may take ``timeout`` (5 s). ``servers`` are the addresses of name
    servers (default: the system's), at ``server_port`` (53).

    Needs dnspython. Raises `MisuseError` without it and for what makes no sense.
    """

    def __init__(
        self,
        name: str,
        *,
        kind: Kind = "A",
        port: int | None = None,
        scheme: str = "http",
        least: Duration = 1.0,
        most: Duration = 300.0,
        timeout: Duration = 5.0,
        servers: Sequence[str] | None = None,
        server_port: int = 53,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
        events: Hub = EVENTS,
    ) -> None:
        super().__init__(f"dns {name}", clock=clock, random=random, events=events)
        if kind not in ("A", "AAAA", "both", "SRV"):
            raise MisuseError(f'dns kind: expected "A", "AAAA", "both" or "SRV", got {kind!r}')
        if (port is None) is not (kind == "SRV"):
            raise MisuseError(f"dns port: {'an SRV record says it itself' if port else 'addresses need one'}")
        if port is not None:
            whole_number(port, "dns port", least=1)
        self._kind: Final = kind
        self._port: Final = port
        self._scheme: Final = scheme
        self._least = positive(least, "dns least")
        self._most = positive(most, "dns most")
        if self._most < self._least:
            raise MisuseError(f"dns most: expected least ({self._least:g} s) or more, got {self._most:g} s")
        self._name: Final = name
        self._timeout = positive(timeout, "dns timeout")
        self._resolver: Final = _resolver(name, servers, server_port, self._timeout)

    async def _look(self) -> tuple[Sequence[Endpoint] | None, float]:
        kinds = ("A", "AAAA") if self._kind == "both" else (self._kind,)
        answers = [answer for kind in kinds if (answer := await self._ask(kind)) is not None]
        if not answers:
            raise LookFailed(f"{self._name} has no {' and no '.join(kinds)} records")
        ttl = min(answer.chaining_result.minimum_ttl for answer in answers)
        try:
            records = [record for answer in answers for record in answer]
            found = self._services(records) if self._kind == "SRV" else self._addresses(records)
            return as_set(found, self.name), min(self._most, max(self._least, float(ttl)))
        except ValueError as error:  # a MisuseError is one, and so is what the standard library says of an odd url
            raise LookFailed(f"{self._name}: {error}") from None

    async def _ask(self, kind: str) -> Answer | None:
        """The answer; None if the name has other records only."""
        from dns.exception import DNSException, Timeout
        from dns.resolver import NXDOMAIN, NoAnswer

        try:
            async with asyncio.timeout(self._timeout):
                return await self._resolver.resolve(self._name, kind)
        except NoAnswer:
            return None
        except NXDOMAIN:
            raise LookFailed(f"there is no name {self._name}") from None
        except (Timeout, TimeoutError):  # its message tells how long it took, which is another each time
            raise LookFailed(f"no answer from the name servers about {self._name}") from None
        except (DNSException, OSError) as error:
            raise LookFailed(f"{self._name}: {type(error).__name__}: {error}") from None

    def _addresses(self, records: list[Any]) -> list[Endpoint]:
        hosts = sorted({str(record.address) for record in records})
        return [self._endpoint(f"[{h}]" if ipaddress.ip_address(h).version == 6 else h, self._port) for h in hosts]

    def _services(self, records: list[Any]) -> list[Endpoint]:
        targets = {(str(r.target).rstrip("."), r.port): r for r in records if str(r.target) != "."}
        if not targets:
            raise LookFailed(f"{self._name}: the service is decidedly not available (its target is the root)")
        ranks = {priority: rank for rank, priority in enumerate(sorted({r.priority for r in targets.values()}))}
        made = []
        for (target, port), record in targets.items():
            peers = [r.weight for r in targets.values() if r.priority == record.priority and r.weight]
            weight = float(record.weight or (min(peers) / 100 if peers else 1))
            made.append(self._endpoint(target, port, weight=weight, priority=ranks[record.priority]))
        return made

    def _endpoint(self, host: str, port: int | None, *, weight: float = 1.0, priority: int = 0) -> Endpoint:
        return Endpoint(
            f"{host}:{port}",
            f"{self._scheme}://{host}:{port}",
            weight=weight,
            priority=priority,
            metadata=MappingProxyType({"name": self._name}),
        )


def _resolver(name: str, servers: Sequence[str] | None, port: int, timeout: float) -> Resolver:
    try:
        import dns.asyncresolver
        import dns.exception
        import dns.name
    except ImportError:
        raise MisuseError('dns: needs dnspython; install it with `pip install "tenfold[dns]"`') from None
    try:
        dns.name.from_text(name)
        resolver = dns.asyncresolver.Resolver(configure=servers is None)
        if servers is not None:
            resolver.nameservers = list(servers)
    except (dns.exception.DNSException, ValueError, AttributeError) as error:
        raise MisuseError(
            f"dns: expected a name and addresses of name servers, got {name!r}, {servers!r}: {error}"
        ) from None
    resolver.port = whole_number(port, "dns server_port", least=1)
    resolver.lifetime = timeout
    return resolver
