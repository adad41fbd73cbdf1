"""The live parts a balancer makes for itself of the options it is given."""

from __future__ import annotations

from tenfold._core.errors import MisuseError
from tenfold.balance.agent import AgentLoad, Load
from tenfold.balance.checks import Check
from tenfold.balance.ejector import Ejector
from tenfold.balance.health import Health
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.pick.base import Draw


def health_of(check: Check | None) -> Health | None:
    """What turns the verdicts of ``check`` into up and down; None without a check."""
    return None if check is None else Health(rise=check.rise, fall=check.fall, initial=check.initial)


def load_of(check: Check | None, agent: AgentLoad | None) -> Load | None:
    """What keeps the load that an endpoint reports, to ``check`` or in its answers; None if nobody listens."""
    return None if check is None and agent is None else Load(agent)


def ejector_of(options: OutlierEjection | Ejector | None, draw: Draw) -> Ejector | None:
    """The live part of ``options``; what is one already is taken as it is."""
    if options is None or isinstance(options, Ejector):
        return options
    if not isinstance(options, OutlierEjection):
        raise MisuseError(f"eject: expected OutlierEjection(...), got {options!r}")
    return Ejector(options, draw)
