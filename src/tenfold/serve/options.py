"""What `tenfold serve` is told: the app, how many workers, what they are scaled by, and what its front is held to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, Size, duration, size, whole_number
from tenfold.autoscale import Behavior, ScalePolicy, Schedule, Target
from tenfold.gateway.config import Address
from tenfold.gateway.config.address import AddressKind

Server = Literal["granian", "uvicorn"]
_RANGE: Final = re.compile(r"\s*(\d{1,4})\s*(?:\.\.\s*(\d{1,4})\s*)?", re.ASCII)
_APP: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_MOST: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """An ASGI app, its workers, and the gateway in front of them.

    The app: ``app`` (``"module:name"``), looked for in ``app_dir`` (``"."``); ``factory``: the name is a function that
    makes it. ``server`` (``"uvicorn"``) is what runs in each worker. ``name`` (the first part of the module) is what
    metrics and events call it.

    The workers: ``workers`` is a fixed number (``4``) or a range (``"2..8"``), inside of which they follow ``targets``
    (`Target.in_flight` of 20 where there is neither a target nor a schedule) and ``schedules``, looked at every
    ``period`` (1 s). ``memory_limit`` (none) and ``max_requests`` (none) replace a worker that goes beyond them.
    ``ready_timeout`` (30 s) is what a new one may take, ``drain_timeout`` (30 s) what requests under way get when one
    ends. ``warm``: paths asked of a new worker before it gets requests. ``deploy_cooldown`` (30 s): no worker is
    removed so soon after a rolling restart. ``reload``: restart in turn when a ``*.py`` file below ``app_dir`` changes.

    The front: ``listen`` (``"127.0.0.1:8000"``), ``admin`` (``"127.0.0.1:0"``, a free port) for metrics, which ask for
    no token, and the admin API; ``admin_public``: it may be reached from other machines. ``edge``: an HTTP cache. At
    most ``max_inflight`` (1000) requests are at one worker at once; ``queue`` (1000) more wait in the front,
    ``queue_timeout`` (10 s) each. ``slow_start`` (5 s): how long a worker that joins others takes to get its whole
    share.

    Raises `MisuseError` for what makes no sense.
    """

    app: str
    name: str = ""
    workers: str | int = 1
    targets: tuple[Target, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    server: Server = "uvicorn"
    factory: bool = False
    app_dir: str = "."
    listen: Any = "127.0.0.1:8000"
    admin: Any = "127.0.0.1:0"
    admin_public: bool = False
    edge: bool = False
    reload: bool = False
    warm: tuple[str, ...] = ()
    memory_limit: Size | None = None
    max_requests: int | None = None
    ready_timeout: Duration = "30s"
    drain_timeout: Duration = "30s"
    deploy_cooldown: Duration = "30s"
    max_inflight: int = 1000
    queue: int = 1000
    queue_timeout: Duration = "10s"
    slow_start: Duration = "5s"
    period: Duration = "1s"

    def __post_init__(self) -> None:
        put = object.__setattr__
        if type(self.app) is not str or _APP.fullmatch(self.app) is None:
            raise MisuseError(f'app: expected a module and a name such as "shop.main:app", got {self.app!r}')
        put(self, "name", self.name or re.split(r"[.:]", self.app)[0])
        if type(self.name) is not str or not self.name.isprintable():
            raise MisuseError(f'name: expected a name such as "shop", got {self.name!r}')
        if self.server not in get_args(Server):
            raise MisuseError(f"server: expected granian or uvicorn, got {self.server!r}")
        for name in ("targets", "schedules", "warm"):
            put(self, name, tuple(getattr(self, name)))
        for name in ("ready_timeout", "drain_timeout", "deploy_cooldown", "queue_timeout", "slow_start", "period"):
            put(self, name, duration(getattr(self, name), name.replace("_", " ")))
        for name in ("ready_timeout", "queue_timeout", "period"):
            if getattr(self, name) < 0.05:
                raise MisuseError(f"{name.replace('_', ' ')}: expected 50ms or more, got {getattr(self, name):g} s")
        for name in ("listen", "admin"):
            put(self, name, _address(getattr(self, name), name))
        if not self.admin.loopback and not self.admin_public:
            raise MisuseError(
                f'admin: expected an address of this machine such as "127.0.0.1:0", or admin public beside it, '
                f'got "{self.admin}"'
            )
        whole_number(self.max_inflight, "max in flight", least=1)
        whole_number(self.queue, "queue")
        if self.max_requests is not None:
            whole_number(self.max_requests, "max requests", least=1)
        if self.memory_limit is not None:
            put(self, "memory_limit", size(self.memory_limit, "memory limit"))
        for path in self.warm:
            if type(path) is not str or re.fullmatch(r"/[!-~]*", path) is None:
                raise MisuseError(f'warm: expected a path such as "/products", got {path!r}')
        put(self, "workers", _range(self.workers))
        if self.least == self.most:
            if self.targets or self.schedules:
                raise MisuseError(
                    f"workers: expected a range such as 1..8 to scale in, got the fixed number {self.most}"
                )
        elif not self.targets and not self.schedules:
            put(self, "targets", (Target.in_flight(20),))
        self.policy()  # the policy judges the rest

    @property
    def least(self) -> int:
        """The fewest workers there may be."""
        return int(str(self.workers).partition("..")[0])

    @property
    def most(self) -> int:
        """The most workers there may be."""
        return int(str(self.workers).rpartition("..")[2])

    def policy(self) -> ScalePolicy | None:
        """How many workers there are to be; None: their number is fixed."""
        if self.least == self.most:
            return None
        return ScalePolicy(
            least=self.least,
            most=self.most,
            targets=self.targets,
            schedules=self.schedules,
            behavior=Behavior.local(),
            deploy_cooldown=self.deploy_cooldown,
        )

    @property
    def by_latency(self) -> bool:
        """Whether response times decide, so that they must be known finely."""
        return any(target.name == "p95_seconds" for target in self.targets)


def _range(value: str | int) -> str:
    text = str(value) if type(value) is int else value
    match = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise MisuseError(f"workers: expected a number such as 4 or a range such as 2..8, got {value!r}")
    least, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= least <= most <= _MOST:
        raise MisuseError(f"workers: expected 1 to {_MOST} with the lower number first, such as 2..8, got {value!r}")
    return f"{least}..{most}" if least < most else str(least)


def _address(value: Any, name: str) -> Address:
    try:
        found: Address = AddressKind().value(value)
    except MisuseError as error:
        raise MisuseError(f"{name}: {error}") from None
    return found


def schedule(text: str, number: int = 1, zone: str = "UTC") -> Schedule:
    """A `Schedule` from ``"0 8 * * mon-fri..0 20 * * mon-fri=6"``: from the first cron time to the second, so many
    workers at least. Raises `MisuseError` for anything else.
    """
    times, equals, workers = text.rpartition("=")
    start, dots, end = times.partition("..")
    if not equals or not dots or not workers.strip().isdecimal():
        raise MisuseError(
            f'schedule: expected "START..END=WORKERS" with two cron times, such as '
            f'"0 8 * * mon-fri..0 20 * * mon-fri=6", got {text!r}'
        )
    return Schedule(name=f"schedule {number}", start=start.strip(), end=end.strip(), workers=int(workers), zone=zone)
