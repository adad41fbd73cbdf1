"""Policies of choosing by the names they have in a file, with what each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config.compound import Frozen, Many
from tenfold.gateway.config.kinds import WRONG, Hidden, Kind, Number, Reading, Text, Whole, refused, span
from tenfold.gateway.config.positions import Path
from tenfold.resilience.config_read import unknown

SELECTOR: Final = Text(
    'one of "client", "header:NAME" and "cookie:NAME"',
    r"client|header:[A-Za-z0-9!#$%&'*+.^_`|~-]+|cookie:[A-Za-z0-9!#$%&'*+.^_`|~-]+",
    label='"client", "header:NAME" or "cookie:NAME"',
)
"""What tells one user from another."""


class _Inner(Kind):
    """The policy within a policy."""

    label = "pick"

    def value(self, given: Any) -> Any:
        return PickKind().value(given)

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        return PickKind().read(given, path, reading)

    def write(self, value: Any) -> Any:
        return PickKind().write(value)


_ZONE: Final = Text('a zone such as "eu-1"', r"[!-~]+")
_COOKIE: Final = Text("the name of a cookie", r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HASHED: Final[dict[str, Kind]] = {"key": SELECTOR, "bound": Number(above=1)}
PICKS: Final[dict[str, tuple[str, dict[str, Kind]]]] = {
    "round_robin": ("RoundRobin", {}),
    "weighted_round_robin": ("WeightedRoundRobin", {}),
    "random": ("Random", {}),
    "weighted_random": ("WeightedRandom", {}),
    "least_request": ("LeastRequest", {}),
    "p2c": ("P2C", {}),
    "peak_ewma": ("PeakEWMA", {"tau": span(), "penalty": span()}),
    "ring_hash": ("RingHash", {**_HASHED, "points": Whole(1, 10_000)}),
    "maglev": ("Maglev", {**_HASHED, "table": Whole(2, 5_000_011)}),
    "rendezvous": ("Rendezvous", {**_HASHED, "table": Whole(2, 5_000_011)}),
    "ip_hash": ("IPHash", {"v4": Whole(1, 32), "v6": Whole(1, 128), "bound": Number(above=1)}),
    "sticky": ("Sticky", {"secret": Many(Hidden(16), least=1, single=True), "cookie": _COOKIE, "inner": _Inner()}),
    "zone_aware": ("ZoneAware", {"zone": _ZONE, "inner": _Inner()}),
    "priority": ("Priority", {"overprovision": Number(least=1), "inner": _Inner()}),
    "aperture": ("Aperture", {"index": Whole(0), "clients": Whole(1), "least": Whole(1)}),
}
"""The class in `tenfold.balance.pick` of each name, and the kinds of what it takes."""
_REQUIRED: Final = {"sticky": ("secret",), "zone_aware": ("zone",), "aperture": ("index", "clients")}
_HERE: Final = ("key", "cookie")
"""What is for the gateway and not for the policy."""


@dataclass(frozen=True, slots=True)
class PickSpec:
    """A policy of choosing as a pool declares it. ``parameters`` are what was given; the policy has defaults.

    ``key`` says what consistent hashing goes by: ``"client"``, ``"header:NAME"`` or ``"cookie:NAME"``.
    """

    name: str = "p2c"
    parameters: Frozen = field(default_factory=Frozen)

    @property
    def key(self) -> str:
        """What the key of a request is made of; ``"client"`` unless declared."""
        return str(self.parameters.get("key", "client"))

    def make(self) -> Any:
        """A fresh `tenfold.balance.Pick`, for one balancer. Raises `MisuseError` for what the policy refuses."""
        cls = getattr(import_module("tenfold.balance.pick"), PICKS[self.name][0])
        given = {name: _made(value) for name, value in self.parameters.items() if name not in _HERE}
        return cls(**given)

    def __str__(self) -> str:
        inner = self.parameters.get("inner")
        return self.name if inner is None else f"{self.name} of {inner}"


def _made(value: Any) -> Any:
    if isinstance(value, PickSpec):
        return value.make()
    return [secret.reveal() for secret in value] if isinstance(value, tuple) else value


class PickKind(Kind):
    """``"p2c"``, or a table of ``name`` and what that policy takes."""

    label = "pick: a name, or a table of `name` and its parameters"

    def value(self, given: Any) -> Any:
        if isinstance(given, PickSpec):
            given = {"name": given.name, **given.parameters}
        table = {"name": given} if isinstance(given, str) else given
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise refused('the name of a pick such as "p2c", or a table such as { name = "ring_hash", … }', given)
        name = table["name"]
        if name not in PICKS:
            raise MisuseError(f"{name!r}: {unknown(name, PICKS, 'pick')}")
        kinds = PICKS[name][1]
        for each in table:
            if each != "name" and each not in kinds:
                raise MisuseError(f"{name} takes {' and '.join(kinds) or 'no parameters'}, got {each}")
        for each in _REQUIRED.get(name, ()):
            if each not in table:
                raise MisuseError(f"{name}: expected {each}, got none")
        found = {each: kinds[each].value(value) for each, value in table.items() if each != "name"}
        if name == "aperture" and found["index"] >= found["clients"]:
            raise MisuseError(f"aperture: expected an index below clients ({found['clients']}), got {found['index']}")
        inner = found.get("inner")
        if inner is not None and "inner" in PICKS[inner.name][1] and inner.name == name:
            raise MisuseError(f"expected another pick within {name}, got {name} again")
        return PickSpec(name, Frozen(found))

    def read(self, given: Any, path: Path, reading: Reading) -> Any:
        """Each parameter at its own line, where the name is known."""
        name = given.get("name") if isinstance(given, Mapping) else None
        if isinstance(given, Mapping) and isinstance(name, str) and name in PICKS:
            kinds = PICKS[name][1]
            values: dict[str, Any] = {}
            for each, value in given.items():
                if each == "name":
                    values[each] = name
                elif each in kinds:
                    values[each] = kinds[each].read(value, (*path, each), reading)
                else:
                    sentence = unknown(str(each), kinds, "key") if kinds else "unknown key; expected name alone"
                    values[each] = reading.wrong((*path, each), f"{sentence} (of {name})")
            if any(value is WRONG for value in values.values()):
                return WRONG
            given = values
        elif isinstance(name, str):
            return reading.wrong((*path, "name"), f"{name!r}: {unknown(name, PICKS, 'pick')}")
        return super().read(given, path, reading)

    def write(self, value: Any) -> Any:
        kinds = PICKS[value.name][1]
        if not value.parameters:
            return value.name
        return {"name": value.name, **{each: kinds[each].write(held) for each, held in value.parameters.items()}}
