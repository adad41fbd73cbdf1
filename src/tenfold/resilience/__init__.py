"""Policies that protect calls, and what protects a server: they cost about a microsecond and behave under
cancellation, low volume and storms.

::

    from tenfold.resilience import Breaker, Bulkhead, Policy, Retry

    payments = Policy("payments", deadline="2s", retry=Retry(attempts=3), breaker=Breaker(), bulkhead=Bulkhead(50))

    @payments
    async def charge(order): ...

Options (`Retry`, `Breaker`, …) are frozen declarations; `Policy` makes the live parts of them.
"""

from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.asgi import ResilienceMiddleware
from tenfold.resilience.breaker import Breaker, BreakerChanged
from tenfold.resilience.budget import Budget
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.circuits import Circuits
from tenfold.resilience.config import Policies, load_policies
from tenfold.resilience.deadline import Deadline, carry, remaining
from tenfold.resilience.degradation import Degradation
from tenfold.resilience.degrade import Degrade, LevelChanged
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
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import REGISTRY, Registry
from tenfold.resilience.retry import Retry
from tenfold.resilience.shed import Shed
from tenfold.resilience.shedder import Shedder, SheddingEnded, SheddingStarted
from tenfold.resilience.transports import ResilientSyncTransport, ResilientTransport
from tenfold.resilience.wire import PRIORITY, Priority, at_priority
