"""A scenario: servers, traffic, clients and faults, as a TOML file says it. A mistake is told with its place.

Everything is checked when it is read, so that a run never stops half-way for a misspelt word.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration, share
from tenfold.simulate.arrivals import Arrivals
from tenfold.simulate.faults import Fault
from tenfold.simulate.service import Service

MAX_SERVERS: Final = 100_000
MAX_VIEWS: Final = 2_000_000
Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_SERVERS)]
Table = dict[str, Any]
PolicySpec = str | Table


class ScenarioError(MisuseError):
    """A scenario that cannot be simulated.

    ``where`` is the place, such as ``servers[0].workers``; ``problem`` what was expected and what came.
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"scenario: {where}: {problem}" if where else f"scenario: {problem}")
        self.where = where
        self.problem = problem


class ServerGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` (1) like servers, called ``id`` if one, else ``id-0``, ``id-1``, …

    ``workers`` (1) work at a time, ``queue`` (1000) wait. ``factor`` (1.0): everything takes so many times as long.
    ``service``: other work than the scenario's. ``cancels`` (False): notices when a caller has given up.
    """

    id: str = "server"
    count: Count = 1
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1
    queue: Annotated[int, msgspec.Meta(ge=0)] = 1000
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    zone: str = ""
    priority: Annotated[int, msgspec.Meta(ge=0)] = 0
    factor: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    cancels: bool = False
    service: Service | None = None

    def ids(self) -> list[str]:
        """The names of its servers, so that sorting them by name sorts them by number."""
        width = len(str(self.count - 1))
        return [self.id] if self.count == 1 else [f"{self.id}-{number:0{width}}" for number in range(self.count)]


class Clients(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` (1) clients that balance each for itself; the traffic is spread over them at random.

    ``timeout`` (10 s) of each try, ``attempts`` (2) in all, ``budget`` (20 %): retries as a share of requests,
    ``"100%"`` for no limit. ``panic`` (0.5): with fewer usable endpoints than this share all are used.
    ``zones``: where clients stand, in turn. ``keys`` (0) different keys among requests, the ``zipf`` (0) exponent of
    their popularity; 0 keys: requests have none.
    """

    count: Count = 1
    timeout: Duration = "10s"
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    budget: str | int | float = 0.2
    panic: str | int | float = 0.5
    zones: tuple[str, ...] = ()
    keys: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    zipf: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0

    def __post_init__(self) -> None:
        if duration(self.timeout, "timeout") == 0:
            raise MisuseError('timeout: expected a duration above 0 such as "1s", got 0')
        share(self.budget, "budget")
        share(self.panic, "panic")


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way between client and server: ``same_zone`` (0) and ``cross_zone`` (the same)."""

    same_zone: Duration = 0
    cross_zone: Duration | None = None

    def __post_init__(self) -> None:
        duration(self.same_zone, "same_zone")
        if self.cross_zone is not None:
            duration(self.cross_zone, "cross_zone")


class Checks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Active checks by every client: a crashed server fails one at once, a frozen one after ``timeout``."""

    interval: Duration = "2s"
    timeout: Duration = "1s"
    rise: Annotated[int, msgspec.Meta(ge=1)] = 2
    fall: Annotated[int, msgspec.Meta(ge=1)] = 3

    def __post_init__(self) -> None:
        if duration(self.interval, "interval") == 0:
            raise MisuseError('interval: expected a duration above 0 such as "2s", got 0')
        duration(self.timeout, "timeout")


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. ``requests`` or ``duration`` (or both: what comes first) says when arrivals end.

    After that what is open may end for ``drain`` (60 s) more. ``warmup`` (0) is left out of the percentiles.
    ``policies``: names, or tables such as ``{ pick = "ring_hash", label = "ring" }`` with the options of that pick.
    ``eject`` and ``slow_start`` take the options of `OutlierEjection` and `SlowStart`.
    """

    name: str = "scenario"
    seed: int = 1
    requests: Annotated[int, msgspec.Meta(ge=1)] | None = None
    duration: Duration | None = None
    warmup: Duration = 0
    drain: Duration = "60s"
    interval: Duration | None = None
    policies: tuple[PolicySpec, ...] = ("p2c",)
    arrivals: Arrivals
    service: Service
    servers: Annotated[tuple[ServerGroup, ...], msgspec.Meta(min_length=1)]
    clients: Clients = Clients()
    network: Network = Network()
    check: Checks | None = None
    eject: Table | None = None
    slow_start: Table | None = None
    fault: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.requests is None and self.duration is None:
            raise MisuseError('expected requests = 100000 or duration = "60s" to say when it ends, got neither')
        for name in ("duration", "warmup", "drain", "interval"):
            value = getattr(self, name)
            if value is not None and duration(value, name) == 0 and name in ("duration", "interval"):
                raise MisuseError(f'{name}: expected a duration above 0 such as "60s", got 0')
        if not self.policies:
            raise MisuseError('policies: expected at least one such as ["p2c"], got none')
        labels = [label_of(spec) for spec in self.policies]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise MisuseError(f"policies: expected each once, got {', '.join(twice)} twice; give them labels")
        ids = [name for group in self.servers for name in group.ids()]
        if len(ids) > MAX_SERVERS:
            raise MisuseError(f"servers: expected at most {MAX_SERVERS:,}, got {len(ids):,}")
        if len(set(ids)) < len(ids):
            same = sorted({name for name in ids if ids.count(name) > 1})[:3] if len(ids) < 10_000 else []
            raise MisuseError(f"servers: expected different ids, got {', '.join(same) or 'some'} twice")
        if len(ids) * self.clients.count > MAX_VIEWS:
            views = len(ids) * self.clients.count
            raise MisuseError(f"clients: expected at most {MAX_VIEWS:,} of clients times servers, got {views:,}")
        if not any(group.weight for group in self.servers):
            raise MisuseError("servers: expected a weight above 0 somewhere, got 0 everywhere")


def load(path: str | Path) -> Scenario:
    """Read a TOML scenario. Raises `ScenarioError` with the place of what is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ScenarioError(
            f"expected a readable TOML file, got {getattr(exc, 'strerror', None) or exc}", str(path)
        ) from exc
    return parse(text, name=Path(path).stem)


def parse(text: str, name: str = "scenario") -> Scenario:
    """The scenario that a TOML text describes; ``name`` is used where it has none. Raises `ScenarioError`."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(f"expected TOML, got {_lower(str(exc))}") from exc
    return from_dict({"name": name, **found})


def from_dict(table: Mapping[str, Any]) -> Scenario:
    """The scenario of a plain dictionary. Raises `ScenarioError`."""
    try:
        return msgspec.convert(dict(table), Scenario)
    except msgspec.ValidationError as exc:
        problem, _, path = str(exc).partition(" - at `")
        where = path.rstrip("`").removeprefix("$").lstrip(".")
        raise ScenarioError(_words(problem, where, table), where) from exc


def changed(scenario: Scenario, **changes: Any) -> Scenario:
    """The same with other fields, checked like a file's. Raises `ScenarioError`."""
    table: dict[str, Any] = msgspec.to_builtins(scenario)
    return from_dict({**table, **changes})


def label_of(spec: PolicySpec) -> str:
    """How a policy is called in tables: its ``label``, or its pick's name."""
    if isinstance(spec, str):
        return spec
    label = spec.get("label", spec.get("pick"))
    if not isinstance(label, str):
        raise MisuseError(f'policies: expected a name or {{ pick = "name", … }}, got {spec!r}')
    return label


_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_INVALID: Final = re.compile(r"Invalid value '(.*)'")


def _words(problem: str, where: str, table: Mapping[str, Any]) -> str:
    """msgspec's message as a sentence of ours: what was expected, what came."""
    if match := _UNKNOWN.fullmatch(problem):
        return f"expected no field {match[1]!r}; known ones are listed in docs/how-to/simulate.md"
    if match := _MISSING.fullmatch(problem):
        return f"expected a field {match[1]!r}, got none"
    if where.endswith("kind") and (match := _INVALID.fullmatch(problem)):
        kinds = _KINDS["fault" if where.startswith("fault") else "arrivals" if where.startswith("arrivals") else ""]
        return f"expected one of {kinds}, got {match[1]!r}"
    came = _at(table, where)
    said = _lower(problem)
    return f"{said}, got {came!r}" if "got" not in said and came is not None else said


_KINDS: Final = {
    "fault": "crash, freeze, slow, zone_loss",
    "arrivals": "poisson, constant, steps",
    "": "deterministic, exponential, lognormal, bimodal, empirical",
}


def _at(table: Any, where: str) -> Any:
    """What stands at ``servers[0].workers``; None where that leads nowhere."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", where):
        try:
            table = table[key] if key else table[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return table if not isinstance(table, dict | list) else None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
