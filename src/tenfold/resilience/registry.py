"""Who there is: the living policies of a program by name, for readers and for people who ask.

The registry holds its members weakly: a policy lives as long as whoever made it, and a test that makes a hundred
leaves none behind. No callback runs when one dies, for the garbage collector may strike while this very thread
holds the lock or walks the table; the dead are passed over when read and swept out as new ones come.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar, overload

from tenfold._core.errors import MisuseError


class Member(Protocol):
    """What can be registered: anything with a name and a state (and weak references to it)."""

    @property
    def name(self) -> str:
        """What it is found by."""
        ...

    def state(self) -> dict[str, object]:
        """Its counters and what else a person would ask for, as plain JSON-ready values."""
        ...


M = TypeVar("M", bound=Member)
D = TypeVar("D")


class Registry(Generic[M]):
    """Living policies by name. Iterating and reading are safe while other threads add and while members die.

    `tenfold.resilience.REGISTRY` is the one policies enter unless they are handed another.
    """

    __slots__ = ("__weakref__", "_lock", "_members", "_sweep_at")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection may run a finalizer that comes back here
        self._members: dict[str, weakref.ref[M]] = {}
        self._sweep_at = 64

    def add(self, member: M) -> None:
        """Enter ``member``. Adding it twice changes nothing.

        Raises `MisuseError` while another one of that name lives: its counters would hide behind this one's.
        """
        name = member.name
        if self._put(name, member):
            return
        gc.collect()  # one that only a cycle of references keeps does not live
        if not self._put(name, member):
            raise MisuseError(
                f"policy {name!r}: expected a name of its own, got that of a living policy; "
                "use that one, give this one another name, or another registry"
            )

    def _put(self, name: str, member: M) -> bool:
        with self._lock:
            held = self._members.get(name)
            living = held() if held is not None else None
            if living is not None:
                return living is member
            self._members[name] = weakref.ref(member)
            if len(self._members) >= self._sweep_at:
                self._members = {name: ref for name, ref in self._members.copy().items() if ref() is not None}
                self._sweep_at = max(64, 2 * len(self._members))
            return True

    def discard(self, member: M) -> None:
        """Forget ``member``, if it is here; its name is free again."""
        with self._lock:
            held = self._members.get(member.name)
            if held is not None and held() is member:
                del self._members[member.name]

    @overload
    def get(self, name: str) -> M | None: ...

    @overload
    def get(self, name: str, default: D) -> M | D: ...

    def get(self, name: str, default: D | None = None) -> M | D | None:
        """The living member of that name, or ``default``."""
        held = self._members.get(name)
        member = held() if held is not None else None
        return default if member is None else member

    def __iter__(self) -> Iterator[M]:
        """The living members, as of now, in the order they came."""
        with self._lock:
            refs = self._members.copy()
        return iter([member for ref in refs.values() if (member := ref()) is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True  # an empty registry is still a registry

    def __contains__(self, member: object) -> bool:
        return any(each is member for each in self)

    def names(self) -> list[str]:
        """The names of the living members, in order."""
        return [member.name for member in self]

    def state(self) -> dict[str, dict[str, object]]:
        """Name to `state` of every living member, ready for JSON."""
        return {member.name: member.state() for member in self}

    def __repr__(self) -> str:
        return f"<Registry of {', '.join(self.names()) or 'nobody'}>"


REGISTRY: Final[Registry[Member]] = Registry()
"""The registry of policies that are handed no other."""
