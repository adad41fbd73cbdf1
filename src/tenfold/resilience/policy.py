"""`Policy`: the layers that protect a call, in one fixed order.

::

    fallback → deadline → retry (budget) → hedge → breaker → limiter / bulkhead → attempt time-out → chaos → call

Each layer sees what the ones after it did. The fallback answers for everything; the deadline bounds all tries; each
try asks the breaker and takes a place of its own, and gives it back before the pause.

*Reloading while calls run.* A decorated function is a generated one with a plain dictionary of globals of its own, and
finds its `Plan` there under a name that its code spells out (``PLAN_3``). `Policy.reconfigure` first adds the new plan
under the next name and then swaps the function's ``__code__``, which is one step: a call runs the old code with the
old plan or the new code with the new one, never a mixture. A name is never used again, for a thread may have been put
to sleep between taking up the code and looking up the name; a minute after it was replaced a plan is let go.
"""

from __future__ import annotations

import functools
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any, Final, ParamSpec, Protocol, TypeVar, overload

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration, format_duration
from tenfold.resilience import block, build, fuse
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos
from tenfold.resilience.checks import Options, check_function, is_async
from tenfold.resilience.deadline import Deadline
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.happenings import Counters, PolicyReconfigured
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.plan import Plan
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import REGISTRY
from tenfold.resilience.retry import Retry
from tenfold.resilience.wheel import Lines

P = ParamSpec("P")
T = TypeVar("T")

_KEPT: Final = 60.0  # seconds that a plan is kept after it was replaced


class _Register(Protocol):
    def add(self, member: Any, /) -> None: ...


class Policy:
    """Protects calls: time, repetition, load, and what to do when all fails.

    ::

        payments = Policy("payments", deadline="2s", retry=Retry(3), breaker=Breaker(), bulkhead=Bulkhead(50))

        @payments                                # `async def` or `def`; the type stays the function's own
        async def charge(order): ...

        await payments.call(charge, order)       # the same without decorating; a plain function's value comes at once
        async with payments: ...                 # a block cannot be run twice: no retry, hedge or fallback in it

    ``name`` stands in errors, events and the registry, once. ``deadline`` bounds the whole call and all that it calls:
    coroutines are stopped at it (at most 8 ms late, never early), plain functions are not begun again after it and see
    it by `remaining`. ``timeout`` bounds each try of a coroutine. The other layers are options of their own.

    ``idempotent=True`` declares that every call of this policy may safely be made twice; ``@policy(idempotent=True)``
    declares it of one function. ``answers`` are exceptions that are answers and no failures ("card declined"): they
    pass through, are not tried again, and the breaker takes them for a success.

    Only the outermost policy that retries does so: within its tries all others make one.

    ``clock``, ``rng`` and ``hub`` are for tests; ``registry=None`` enters none.

    Raises `MisuseError` for combinations that make no sense. A call raises what the function raises, as it is, and
    `BreakerOpen`, `RateLimited`, `BulkheadFull`, `Overloaded`, `DeadlineTooShort` (all `Rejected`: it was not started),
    `AttemptTimeout` and `DeadlineExceeded`.
    """

    def __init__(
        self,
        name: str,
        *,
        deadline: Duration | Deadline | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        limit: RateLimit | AdaptiveLimit | None = None,
        bulkhead: Bulkhead | None = None,
        hedge: Hedge | None = None,
        fallback: Fallback | None = None,
        chaos: Chaos | None = None,
        answers: Any = (),
        idempotent: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        hub: Hub = EVENTS,
        registry: _Register | None = REGISTRY,
    ) -> None:
        if not name or type(name) is not str:
            raise MisuseError(f"policy: expected a name such as 'payments', got {name!r}")
        self.name: Final = name
        self.options = Options(
            deadline=deadline,
            timeout=timeout,
            retry=retry,
            breaker=breaker,
            limit=limit,
            bulkhead=bulkhead,
            hedge=hedge,
            fallback=fallback,
            chaos=chaos,
            answers=answers,
            idempotent=idempotent,
        )
        self.counters: Final = Counters()
        self._clock = clock
        self._rng = random.Random() if rng is None else rng
        self._hub = hub
        self._lines = Lines(clock)
        self._lock = threading.Lock()
        self._turn = 0
        self._retired: list[tuple[float, str]] = []
        self._wrappers: weakref.WeakSet[FunctionType] = weakref.WeakSet()
        self._plan = self._make(self.options, None)
        if registry is not None:
            registry.add(self)

    def _make(self, options: Options, old: Plan | None) -> Plan:
        plan = Plan(self.name, self._clock, self._hub, self.counters, self._lines)
        plan.sleep_sync = _sleeper(self._clock)
        build.fill(plan, options, old, self._rng)
        return plan

    # As a decorator

    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...

    @overload
    def __call__(self, /, *, idempotent: bool) -> _Decorator: ...

    def __call__(self, fn: Callable[..., Any] | None = None, /, *, idempotent: bool = False) -> Any:
        """Protect ``fn``. ``idempotent=True``: it may safely be called twice."""
        if fn is None:
            return functools.partial(self._wrap, idempotent)
        return self._wrap(idempotent, fn)

    def _wrap(self, idempotent: bool, fn: Callable[..., Any]) -> Callable[..., Any]:
        with self._lock:
            self._check(self.options, fn)
            wrapper = FunctionType(
                fuse.wrapper_code(build.shape(self.options), is_async(fn), "PLAN", fn),
                {**fuse.NAMES, "__builtins__": __builtins__, "fn": fn, "idempotent": idempotent},
            )
            functools.update_wrapper(wrapper, fn)
            if fuse.positional(fn) is not None:
                wrapper.__defaults__ = fn.__defaults__
            wrapper.policy = self  # type: ignore[attr-defined]  # and keeps it alive
            self._point(wrapper)
            self._wrappers.add(wrapper)
        return wrapper

    def _check(self, options: Options, fn: Callable[..., Any]) -> None:
        check_function(self.name, options, fn)
        if options.fallback is not None:
            build.check_fallback(self.name, options.fallback, fn)

    def _point(self, wrapper: FunctionType) -> None:
        """Let a wrapper go by the present plan."""
        names, plan_name = wrapper.__globals__, f"PLAN_{self._turn}"
        names[plan_name] = self._plan
        fn = names["fn"]
        wrapper.__code__ = fuse.wrapper_code(build.shape(self.options), is_async(fn), plan_name, fn)

    # For single calls and blocks

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``fn(*args, **kwargs)`` under this policy: an awaitable if ``fn`` is asynchronous, else its value."""
        plan = self._plan
        code = getattr(fn, "__code__", None)
        if code is not None and not code.co_flags & 0x2A0:  # neither generator nor coroutine: the usual plain function
            asynchronous = False
        elif code is not None and code.co_flags & 0x80:
            asynchronous = True
        else:
            asynchronous = is_async(fn)
            check_function(self.name, self.options, fn)
        if asynchronous:
            return plan.call_async(plan, fn, False, args, kwargs)  # type: ignore[no-any-return]
        if plan.timeout < math.inf or plan.hedger is not None or plan.stopgap is not None:
            self._check(self.options, fn)
        return plan.call_sync(plan, fn, False, args, kwargs)  # type: ignore[no-any-return]

    async def __aenter__(self) -> Policy:
        await block.enter_async(self, self._plan)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block.leave(self, error)

    def __enter__(self) -> Policy:
        block.enter(self, self._plan, self.options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block.leave(self, error)

    # Reloading and looking

    def reconfigure(self, **changes: Any) -> None:
        """Go by other options from now on, decorated functions included; what is not named stays.

        ``None`` takes a layer out. Layers of the same kind keep their state (an open breaker stays open, permits that
        are out stay out) and go by their new numbers at once; calls under way keep the layers that they began with, and
        give what they took back to where it came from.
        Raises `MisuseError`, and changes nothing, for options that make no sense or that a decorated function cannot
        have.
        """
        with self._lock:
            options = self.options.but(changes)
            wrappers = list(self._wrappers)
            for wrapper in wrappers:
                self._check(options, wrapper.__globals__["fn"])
            changed = tuple(sorted(name for name in changes if getattr(options, name) != getattr(self.options, name)))
            if not changed:
                return
            plan = self._make(options, self._plan)
            self.options, self._plan = options, plan
            now = time.monotonic()
            gone = [name for when, name in self._retired if now - when > _KEPT]
            self._retired = [*self._retired[len(gone) :], (now, f"PLAN_{self._turn}")]
            self._turn += 1
            for wrapper in wrappers:
                self._point(wrapper)
                for name in gone:
                    wrapper.__globals__.pop(name, None)
        if self._hub.wants(PolicyReconfigured):
            self._hub.emit(PolicyReconfigured(self.name, changed))

    async def aclose(self) -> None:
        """Close what the running loop holds open: the connection of a rate limit that processes share, if any. The
        policy may be used on; it connects anew then.
        """
        meter = self._plan.meter
        if meter is not None and not meter.local:
            await meter.aclose()

    @property
    def plan(self) -> Plan:
        """The live parts as of now, for tests and for people who ask."""
        return self._plan

    def state(self) -> dict[str, object]:
        """Counters and the state of each layer, as plain JSON-ready values."""
        options, plan = self.options, self._plan
        state: dict[str, object] = {
            "name": self.name,
            "layers": str(build.shape(options)),
            "deadline": options.deadline,
            "timeout": options.timeout,
            **self.counters.state(),
        }
        state.update(build.parts(plan))
        return state

    def __repr__(self) -> str:
        options, counters = self.options, self.counters
        deadline = "" if options.deadline is None else f" deadline={format_duration(options.deadline)}"
        counts = f"calls={counters.calls} failures={counters.failures} retries={counters.retries}"
        return f"<Policy {self.name!r}{deadline} [{build.shape(options)}] {counts}>"


class _Decorator(Protocol):
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...


def _sleeper(clock: Clock) -> Callable[[float], object]:
    """How a plain function pauses: `time.sleep`, or on a clock for tests its `jump`, which needs no loop."""
    if clock is SYSTEM_CLOCK:
        return time.sleep
    jump = getattr(clock, "jump", None)
    return jump if callable(jump) else time.sleep
