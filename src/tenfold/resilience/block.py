"""``async with policy:`` and ``with policy:``: the layers of a policy around a block of code.

A block cannot be run twice, so retry, hedges and fallback stay out of it, and it does not count as "the outermost
layer retries": a policy inside may retry. The policy object is shared by all tasks, so what belongs to one entry lies
on a stack in the context.
"""

from __future__ import annotations

import math
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.resilience.checks import Options, check_plain
from tenfold.resilience.plan import LateResult, Plan
from tenfold.resilience.scope import SCOPE, Scope


class _Entry:
    """What one entry holds."""

    __slots__ = (
        "below",
        "circuit",
        "entry",
        "limit",
        "now",
        "outer",
        "owner",
        "permit",
        "plan",
        "ticket",
        "timer",
        "token",
        "until",
    )

    def __init__(self, owner: object, plan: Plan) -> None:
        self.owner = owner
        self.plan = plan
        self.below: _Entry | None = None
        self.token: Any = None
        self.circuit: Any = None
        self.ticket: Any = None
        self.entry: Any = None
        self.permit: int | None = None
        self.timer: tuple[Any, ...] | None = None
        self.now = plan.monotonic()
        self.outer: Scope = SCOPE.get()
        self.until = self.limit = min(self.outer[0], self.now + plan.deadline)

    def settle(self, error: BaseException, started: bool) -> BaseException:
        timer, self.timer = self.timer, None  # it refers to the task, and that to its exception
        return self.plan.settle(
            error,
            self.outer,
            started,
            self.now,
            self.until,
            self.circuit,
            self.ticket,
            self.entry,
            self.permit,
            timer,
        )


_STACK: Final[ContextVar[_Entry | None]] = ContextVar("tenfold_open_blocks", default=None)


def refuse_keys(plan: Plan) -> None:
    """A key is a function of the call's arguments, and a block has none."""
    if plan.breaker_key is not None or plan.meter_key is not None:
        raise MisuseError(
            f"policy {plan.name!r}: its key is a function of a call's arguments, and a block has none; "
            "decorate a function, or use policy.call"
        )


def enter(owner: object, plan: Plan, options: Options) -> None:
    """Begin a plain block."""
    refuse_keys(plan)
    check_plain(plan.name, options, "this block")
    held = _begin(owner, plan)
    try:
        _admit(held)
        if plan.meter is not None:
            plan.meter.admit(held.now)
        _count_in(held)
        if plan.places is not None:
            with suppress(IndexError):
                held.permit = plan.places.free.pop()
            if held.permit is None:
                held.permit = plan.places.wait_thread(held.until)
                held.now = plan.resume(held.until)
        injection = None if plan.injector is None else plan.injector.plan(held.now, (), {})
        if injection is not None:
            if injection.delay:
                plan.sleep_sync(injection.delay)
            if injection.error is not None:
                raise injection.error
    except BaseException as error:
        _refused(held, error)
        raise
    _open(held)


async def enter_async(owner: object, plan: Plan) -> None:
    """Begin an asynchronous block."""
    refuse_keys(plan)
    held = _begin(owner, plan)
    try:
        _admit(held)
        if plan.meter is not None:
            if plan.meter.local:
                plan.meter.admit(held.now)
            else:
                await plan.meter.admit_async(held.now)
                held.now = plan.resume(held.until)
        _count_in(held)
        if plan.places is not None:
            with suppress(IndexError):
                held.permit = plan.places.free.pop()
            if held.permit is None:
                held.permit = await plan.places.wait(held.until)
                held.now = plan.resume(held.until)
        injection = None if plan.injector is None else plan.injector.plan(held.now, (), {})
        if injection is not None:
            if injection.delay:
                await plan.clock.sleep(injection.delay)
            if injection.error is not None:
                raise injection.error
        held.limit = min(held.until, held.now + plan.timeout)
        if plan.timeout < math.inf or plan.deadline < math.inf:
            held.timer = plan.lines.arm(held.limit)
    except BaseException as error:
        _refused(held, error)
        raise
    _open(held)


def leave(owner: object, error: BaseException | None) -> None:
    """End a block, of either kind. Raises what stands for ``error``, if something else does."""
    held = _STACK.get()
    if held is None or held.owner is not owner:
        raise MisuseError(f"{owner!r}: a block must end in the task and in the order in which it began")
    _STACK.set(held.below)
    if held.token is not None:
        with suppress(ValueError):  # a coroutine that is closed by the garbage collector, in another context
            SCOPE.reset(held.token)
    plan = held.plan
    if error is None:
        if held.timer is None or held.timer[0].pop(held.timer[1], None) is not None:
            _succeed(held)
            return
        error = LateResult("the block went on after its time-out")
    final = held.settle(error, started=True)
    plan.count(final)
    try:
        if final is not error:
            raise final from error
    finally:
        del final, error  # their tracebacks refer to this frame


def _begin(owner: object, plan: Plan) -> _Entry:
    held = _Entry(owner, plan)
    if held.until <= held.now:
        plan.counters.failures += 1
        raise plan.too_late()
    return held


def _admit(held: _Entry) -> None:
    circuit = held.plan.circuit
    if circuit is not None:
        held.circuit = circuit
        held.ticket = circuit.ticket or circuit.admit(held.now)


def _count_in(held: _Entry) -> None:
    limiter = held.plan.limiter
    if limiter is not None:
        held.entry = limiter.enter(held.now)


def _refused(held: _Entry, error: BaseException) -> None:
    held.settle(error, started=False)
    held.plan.count(error)


def _open(held: _Entry) -> None:
    if held.limit < held.outer[0]:
        held.token = SCOPE.set((held.limit, held.outer[1]))
    held.below = _STACK.get()
    _STACK.set(held)


def _succeed(held: _Entry) -> None:
    plan = held.plan
    end = plan.monotonic()
    if held.permit is not None and plan.places is not None:
        plan.places.release(held.permit)
    if held.entry is not None and plan.limiter is not None:
        plan.limiter.leave(held.entry, end, True)
    if held.ticket is not None:
        held.circuit.success(held.ticket, end, end - held.now)
    plan.counters.good += 1.0
