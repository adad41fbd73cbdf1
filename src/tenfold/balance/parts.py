"""The live parts a balancer makes for itself of the options it is given, loaded when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from tenfold._core.clock import Clock
from tenfold._core.errors import MisuseError
from tenfold.balance.pick.base import Draw, Pick

if TYPE_CHECKING:
    from tenfold.balance.faces import Check, Checker, Ejector, Health, Load


def default_pick() -> Pick:
    """Power of two choices."""
    return cast("Pick", import_module("tenfold.balance.pick.p2c").P2C())


def health_of(check: Check | None) -> Health | None:
    """What turns the verdicts of ``check`` into up and down; None without a check."""
    if check is None:
        return None
    made = import_module("tenfold.balance.health").Health(rise=check.rise, fall=check.fall, initial=check.initial)
    return cast("Health", made)


def load_of(check: Check | None) -> Load | None:
    """What keeps the load that an endpoint reports to ``check``; None without a check."""
    return None if check is None else cast("Load", import_module("tenfold.balance.agent").Load())


def checker_of(check: Check, on_verdict: Callable[..., Any], clock: Clock, draw: Draw) -> Checker:
    """Who runs the checks."""
    made = import_module("tenfold.balance.checker").Checker(check, on_verdict, clock=clock, random=draw)
    return cast("Checker", made)


def ejector_of(options: object | None, draw: Draw) -> Ejector | None:
    """The live `Ejector` of ``OutlierEjection``; what is one already is taken as it is."""
    if options is None:
        return None
    if callable(getattr(options, "sweep", None)):
        return cast("Ejector", options)
    if type(options).__name__ != "OutlierEjection":
        raise MisuseError(f"eject: expected OutlierEjection(...), got {options!r}")
    return cast("Ejector", import_module("tenfold.balance.ejector").Ejector(options, draw))
