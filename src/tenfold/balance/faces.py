"""What a balancer asks of its parts. Each is a small face; who has these methods is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, runtime_checkable

from tenfold.balance.endpoint import Endpoint


@runtime_checkable
class Discovery(Protocol):
    """Where endpoints come from: yields the whole set whenever it changes."""

    def changes(self) -> AsyncIterator[Sequence[Endpoint]]: ...


class Verdict(Protocol):
    """What one check found out. ``load`` is the share in use that the endpoint reports of itself, None if it does
    not.
    """

    @property
    def ok(self) -> bool: ...
    @property
    def why(self) -> str: ...
    @property
    def load(self) -> float | None: ...


class Check(Protocol):
    """How to ask an endpoint whether it is well: the options of `Health`, and the question."""

    @property
    def rise(self) -> int: ...
    @property
    def fall(self) -> int: ...
    @property
    def initial(self) -> str: ...

    async def probe(self, endpoint: Endpoint) -> Any: ...


class Health(Protocol):
    """Up or down, by the last few verdicts."""

    @property
    def up(self) -> bool: ...

    def observe(self, ok: bool, now: float) -> bool: ...


class Load(Protocol):
    """What an endpoint says of its own load, and what that leaves of its weight."""

    def report(self, load: float | None, now: float) -> Any: ...
    def factor(self, now: float) -> float: ...


class Checker(Protocol):
    """Asks every endpoint it watches, in tasks of its own."""

    def watch(self, endpoint: Endpoint) -> None: ...
    def forget(self, id: str) -> None: ...
    async def aclose(self) -> None: ...


class Ejector(Protocol):
    """Who is put aside because its answers are worse than those of the others."""

    def add(self, id: str) -> Any: ...
    def remove(self, id: str) -> Any: ...
    def record(self, id: str, now: float, ok: bool, elapsed: float) -> Any: ...
    def sweep(self, now: float) -> Sequence[Any]: ...

    @property
    def due(self) -> float:
        """When `sweep` has something to do next."""
        ...

    def ejected(self, id: str) -> bool: ...
    def state(self) -> Any: ...


class SlowStart(Protocol):
    """The share of its weight that an endpoint gets while it warms up."""

    @property
    def window(self) -> Any: ...

    def factor(self, since: float, now: float) -> float: ...
