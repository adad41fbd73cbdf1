"""What is shown, said once for all readers: a table of metrics, each with its name, unit and place in a snapshot.

A reader of Prometheus and one of OpenTelemetry must not tell two stories, so neither has names of its own. The table
has OpenTelemetry's (dots between what belongs together, the unit apart), and Prometheus' are made from them by the
rules that OpenTelemetry lays down for it (dots become underscores; seconds and bytes stand at the end; the client adds
``_total``; units in braces are left out). So a dashboard fits whether the numbers were scraped here or came through a
collector.

    https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
    https://opentelemetry.io/docs/specs/semconv/general/metrics/

No label holds anything that a caller controls: of breakers, limits and caches by key there are sums, not keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from tenfold._core.errors import MisuseError

Sample = tuple[tuple[str, ...], float]
"""The values of the labels after the owner's, and the value: always a float, so that no series changes its type."""
Read = Callable[[Mapping[str, Any]], Iterable[Sample]]

_SUFFIXES: Final = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it is called and where in a snapshot it is found.

    ``unit`` is in UCUM: ``s``, ``By``, or what is counted in braces; empty for a state that is 0 or 1 and for a rank.
    """

    name: str
    unit: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()

    @property
    def prometheus(self) -> str:
        """The name without ``_total``."""
        return self.name.replace(".", "_") + _SUFFIXES.get(self.unit, "")


@dataclass(frozen=True, slots=True)
class Owner:
    """One that has numbers of its own, as of now: the cache or policy itself, its name, its snapshot."""

    itself: object
    name: str
    snapshot: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Owners of one kind, told apart by the label ``label``, and the metrics that each of them has.

    ``source`` is what the owners come from: two groups of one source are one.
    """

    label: str
    families: tuple[Family, ...]
    source: object
    owners: Callable[[], list[Owner]]


class Named(Protocol):
    """An owner: it has a name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def group_of(
    label: str,
    families: tuple[Family, ...],
    owners: Iterable[N],
    snapshot: Callable[[N], Mapping[str, Any]],
    reader: str,
    hint: str = "",
) -> Group:
    """What there is to show of ``owners``, which may be a list that grows.

    Raises `MisuseError`, in the name of ``reader``, for an iterator and, now and at each look, for two of one name;
    ``hint`` says what to do about that.
    """
    if isinstance(owners, Iterator):
        raise MisuseError(f"{reader}: expected a list of {label}s, got an iterator, which ends at the first look")

    def named() -> list[N]:
        found = list(owners)
        names = [owner.name for owner in found]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MisuseError(
                f"{reader}: expected a name for each {label}, got {min(twice)!r} twice; "
                f"their series could not be told apart{hint and '; ' + hint}"
            )
        return found

    named()
    return Group(label, families, owners, lambda: [Owner(owner, owner.name, snapshot(owner)) for owner in named()])


def at(*path: str) -> Read:
    """The number at that place of the snapshot; none where there is no such part."""

    def read(snapshot: Mapping[str, Any]) -> Iterable[Sample]:
        found = _part(snapshot, path)
        return [] if found is None else [((), float(found))]

    return read


def each(part: str, **keys: str) -> Read:
    """Several numbers of a part (empty: of the snapshot) under one label: its value, and the key it is read from."""

    def read(snapshot: Mapping[str, Any]) -> Iterable[Sample]:
        found = _part(snapshot, part.split(".") if part else ())
        if not isinstance(found, Mapping):
            return []
        return [((value,), float(found[key])) for value, key in keys.items() if key in found]

    return read


def every(*path: str) -> Read:
    """All numbers of a dictionary under one label."""

    def read(snapshot: Mapping[str, Any]) -> Iterable[Sample]:
        found = _part(snapshot, path)
        return [((name.replace(" ", "_"),), float(value)) for name, value in (found or {}).items()]

    return read


def whether(key: str) -> Read:
    """1 where there is something, 0 where there is none."""
    return lambda snapshot: [((), float(snapshot.get(key) is not None))]


def length(key: str) -> Read:
    """How many there are."""
    return lambda snapshot: [((), float(len(snapshot.get(key, ()))))]


def _part(snapshot: Mapping[str, Any], path: Iterable[str]) -> Any:
    found: Any = snapshot
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
