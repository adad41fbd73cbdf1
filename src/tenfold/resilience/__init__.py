"""Policies that protect calls, and what protects a server: they cost about a microsecond and behave under
cancellation, low volume and storms.

::

    from tenfold.resilience import Breaker, Bulkhead, Policy, Retry

    payments = Policy("payments", deadline="2s", retry=Retry(attempts=3), breaker=Breaker(), bulkhead=Bulkhead(50))

    @payments
    async def charge(order): ...

Options (`Retry`, `Breaker`, …) are frozen declarations; `Policy` makes the live parts of them.
"""

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold.resilience.adaptive import AdaptiveLimit, LimitMoved
from tenfold.resilience.asgi import ResilienceMiddleware
from tenfold.resilience.breaker import Breaker, BreakerChanged, State
from tenfold.resilience.budget import Budget
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos, ChaosEnded, ChaosStarted
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.circuits import Circuits
from tenfold.resilience.config import Policies, UnknownPolicy, load_policies
from tenfold.resilience.config_read import ConfigError
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded
from tenfold.resilience.deadline import Deadline, carry, from_remaining_ms, remaining, to_remaining_ms, to_thread
from tenfold.resilience.degradation import Degradation
from tenfold.resilience.degrade import Degrade, LevelChanged
from tenfold.resilience.distributed import RateStoreDown, RateStoreUp
from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    ChaosFault,
    DeadlineExceeded,
    DeadlineTooShort,
    Overloaded,
    RateLimited,
    Rejected,
    ResilienceError,
)
from tenfold.resilience.fallback import Fallback, FallbackUsed
from tenfold.resilience.happenings import (
    AttemptTimedOut,
    BudgetExhausted,
    DeadlinePassed,
    PolicyReconfigured,
    RetryRefused,
    RetryScheduled,
)
from tenfold.resilience.hedge import Hedge, Hedged
from tenfold.resilience.inbound import RequestCounters, client_address
from tenfold.resilience.meters import meter_of
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import REGISTRY, Registry
from tenfold.resilience.retry import Retry
from tenfold.resilience.shed import Shed
from tenfold.resilience.shedder import Shedder, SheddingEnded, SheddingStarted
from tenfold.resilience.transports import ResilientSyncTransport, ResilientTransport
from tenfold.resilience.wire import PRIORITY, Priority, at_priority

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # policies
    "Policy",
    "Retry",
    "Budget",
    "Breaker",
    "Bulkhead",
    "RateLimit",
    "AdaptiveLimit",
    "Hedge",
    "Fallback",
    "Chaos",
    # deadlines
    "Deadline",
    "carry",
    "remaining",
    "to_thread",
    "to_remaining_ms",
    "from_remaining_ms",
    # registry and files
    "REGISTRY",
    "Registry",
    "Policies",
    "load_policies",
    # servers and the wire
    "ResilienceMiddleware",
    "Shed",
    "Shedder",
    "Degrade",
    "Degradation",
    "Priority",
    "PRIORITY",
    "at_priority",
    "RequestCounters",
    "client_address",
    "ResilientTransport",
    "ResilientSyncTransport",
    # live parts
    "Circuit",
    "Circuits",
    "State",
    "meter_of",
    # errors
    "ResilienceError",
    "Rejected",
    "BreakerOpen",
    "BulkheadFull",
    "RateLimited",
    "Overloaded",
    "DeadlineTooShort",
    "DeadlineExceeded",
    "AttemptTimeout",
    "ChaosFault",
    "ConfigError",
    "UnknownPolicy",
    "MisuseError",
    # events
    "EVENTS",
    "Hub",
    "AttemptTimedOut",
    "BreakerChanged",
    "BudgetExhausted",
    "ChaosEnded",
    "ChaosStarted",
    "ConfigRejected",
    "ConfigReloaded",
    "DeadlinePassed",
    "FallbackUsed",
    "Hedged",
    "LevelChanged",
    "LimitMoved",
    "PolicyReconfigured",
    "RateStoreDown",
    "RateStoreUp",
    "RetryRefused",
    "RetryScheduled",
    "SheddingEnded",
    "SheddingStarted",
]
