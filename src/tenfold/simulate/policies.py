"""From a name in a scenario to a fresh `Pick`: every pick of `tenfold.balance.pick` goes by its own ``name``."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from tenfold._core.errors import MisuseError
from tenfold.balance import pick as package
from tenfold.balance.pick.base import Pick
from tenfold.simulate.scenario import PolicySpec, ScenarioError


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the ``clients`` clients a pick is made for, counted from 0, and the zone that one stands in."""

    client: int = 0
    clients: int = 1
    zone: str = ""


T = TypeVar("T")
PickFactory = Callable[[Place], Pick]
"""Makes a fresh pick for one client."""


@cache
def known() -> Mapping[str, type[Pick]]:
    """All picks by name."""
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    base: Any = Pick  # abstract, which `type[Pick]` may not be
    return {kind.name: kind for kind in _below(base) if kind.__module__.startswith(f"{package.__name__}.")}


def factory(spec: PolicySpec, where: str = "policies") -> PickFactory:
    """What makes the picks of ``spec``; one is made at once, so that a mistake is found here.

    The texts ``"$client"``, ``"$clients"`` and ``"$zone"`` among the options stand for the client's own. A table with
    ``pick`` among them is a pick too. Raises `ScenarioError`.
    """
    table = {"pick": spec} if isinstance(spec, str) else {key: value for key, value in spec.items() if key != "label"}

    def make(place: Place) -> Pick:
        return _made(table, place, where)

    make(Place())
    return make


def options(kind: Callable[..., T], table: Mapping[str, Any], where: str) -> T:
    """``kind`` with the options of a table. Raises `ScenarioError` for what it does not know or refuses."""
    accepted = [name for name in inspect.signature(kind).parameters if name not in ("self", "args", "kwargs")]
    for name in table:
        if name not in accepted:
            expected = f"one of {', '.join(accepted)}" if accepted else "no options"
            raise ScenarioError(f"expected {expected}, got {name!r}", where)
    try:
        return kind(**table)
    except MisuseError as exc:
        raise ScenarioError(str(exc), where) from exc
    except TypeError as exc:
        raise ScenarioError(f"expected other options, got {dict(table)!r}: {exc}", where) from exc


def _made(table: Mapping[str, Any], place: Place, where: str) -> Pick:
    name = table.get("pick")
    kind = known().get(name) if isinstance(name, str) else None
    if kind is None:
        raise ScenarioError(f"expected one of {', '.join(sorted(known()))}, got {name!r}", where)
    given = {key: _value(value, place, f"{where}.{key}") for key, value in table.items() if key != "pick"}
    accepted = inspect.signature(kind).parameters
    if "index" in accepted and "clients" in accepted:  # subsetting: which of the clients this is
        given = {"index": place.client, "clients": place.clients, **given}
    return options(kind, given, f"{where}: {name}")


def _value(value: object, place: Place, where: str) -> object:
    if isinstance(value, dict) and "pick" in value:
        return _made(value, place, where)
    if isinstance(value, list):
        return [_value(item, place, where) for item in value]
    if isinstance(value, str) and value.startswith("$"):
        try:
            return {"$client": place.client, "$clients": place.clients, "$zone": place.zone}[value]
        except KeyError:
            raise ScenarioError(f"expected $client, $clients or $zone, got {value!r}", where) from None
    return value


def _below(kind: type[Pick]) -> Iterator[type[Pick]]:
    for one in kind.__subclasses__():
        if not inspect.isabstract(one):
            yield one
        yield from _below(one)
