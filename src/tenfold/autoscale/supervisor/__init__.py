"""Worker processes for an ASGI app: as many as are wished, replaced when they die, hang, grow or are outdated.

::

    from tenfold.autoscale.supervisor import Fleet, FleetOptions

    fleet = Fleet(FleetOptions(app="shop:app"), front)
    await fleet.start(2)
    await fleet.scale(8)  # as `tenfold.autoscale.Scaler` decides
    await fleet.roll()
    await fleet.aclose()

``front`` is a `FleetListener`: it sends the workers their requests and is told which of them are in service.
"""

from tenfold.autoscale.supervisor.fleet import Fleet
from tenfold.autoscale.supervisor.happenings import CrashLoop, WorkerCrashed, WorkerLeft, WorkerReady
from tenfold.autoscale.supervisor.life import FleetListener
from tenfold.autoscale.supervisor.member import Member
from tenfold.autoscale.supervisor.options import FleetError, FleetOptions

__all__ = [  # noqa: RUF022 - grouped by what they are for
    "Fleet",
    "FleetOptions",
    "FleetError",
    # who serves, and who is told
    "Member",
    "FleetListener",
    # what happens
    "WorkerReady",
    "WorkerLeft",
    "WorkerCrashed",
    "CrashLoop",
]
