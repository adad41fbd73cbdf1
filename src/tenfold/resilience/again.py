"""The second try and all that follow: what a policy does once the first one has failed. Plain and readable, because
it is the slow path anyway; the fast one is in `fuse`.

What belongs to one call lives in local variables here, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenfold._core.units import format_duration
from tenfold.resilience.errors import DeadlineExceeded, DeadlineTooShort
from tenfold.resilience.happenings import BudgetExhausted, RetryRefused, RetryScheduled
from tenfold.resilience.plan import Unwanted
from tenfold.resilience.retry import Step, Stop
from tenfold.resilience.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenfold.resilience.plan import Plan

_WHY = {
    "attempts": "no tries left",
    "deadline": "another one would not end within the deadline",
    "budget": "the retry budget is used up",
    "retry_after": "the peer asks to wait for longer than a retry may",
}


def again_sync(
    plan: Plan,
    box: list[BaseException],
    fn: Callable[..., Any],
    idempotent: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outer: Scope,
    until: float,
    began: float | None,
) -> Any:
    """Try again until it succeeds or there is a reason not to. ``box`` holds the first error."""
    error = box.pop()
    attempt, pause = 1, 0.0
    try:
        while True:
            step = _next(plan, error, attempt, pause, until)
            if not isinstance(step, Step):
                return _give_up(plan, error, attempt, step, until, began)
            pause = step.pause
            try:
                plan.sleep_sync(pause)
            except BaseException:
                _put_back(plan, step)
                raise
            refusal = _unpaid(plan, step, until)
            if refusal is not None:
                return _give_up(plan, error, attempt, refusal, until, began)
            attempt += 1
            try:
                result = plan.attempt_sync(plan, fn, args, kwargs, outer, until)
            except Exception as failure:  # noqa: BLE001 - what may be tried again is judged below
                error = _follow(plan, failure, error)
                if not plan.wants(error, idempotent):
                    return _give_up(plan, error, attempt, None, until, began)
                continue
            if not plan.unwanted(result, idempotent):
                plan.counters.good += 1.0
                return result
            error = Unwanted(result)
    except BaseException as raised:
        plan.count(raised)
        raise
    finally:
        del error  # its traceback refers to this frame


async def again_async(
    plan: Plan,
    box: list[BaseException],
    fn: Callable[..., Any],
    idempotent: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outer: Scope,
    until: float,
    began: float | None,
) -> Any:
    """As `again_sync`, for coroutines."""
    error = box.pop()
    attempt, pause = 1, 0.0
    try:
        while True:
            step = _next(plan, error, attempt, pause, until)
            if not isinstance(step, Step):
                return _give_up(plan, error, attempt, step, until, began)
            pause = step.pause
            try:
                await plan.clock.sleep(pause)
            except BaseException:
                _put_back(plan, step)
                raise
            refusal = _unpaid(plan, step, until)
            if refusal is not None:
                return _give_up(plan, error, attempt, refusal, until, began)
            attempt += 1
            try:
                if plan.hedger is not None:
                    result = await plan.hedged(fn, args, kwargs, outer, until)
                else:
                    result = await plan.attempt_async(plan, fn, args, kwargs, outer, until)
            except Exception as failure:  # noqa: BLE001 - what may be tried again is judged below
                error = _follow(plan, failure, error)
                if not plan.wants(error, idempotent):
                    return _give_up(plan, error, attempt, None, until, began)
                continue
            if not plan.unwanted(result, idempotent):
                plan.counters.good += 1.0
                return result
            error = Unwanted(result)
    except BaseException as raised:
        plan.count(raised)
        raise
    finally:
        del error


def _next(plan: Plan, error: BaseException, attempt: int, previous: float, until: float) -> Step | Stop:
    assert plan.retrier is not None
    now = plan.monotonic()
    quickest = 0.0 if plan.quickest == float("inf") else plan.quickest
    step = plan.retrier.step(error, attempt, previous, now, until, quickest, plan.clock.time())
    if isinstance(step, Step) and plan.hub.wants(RetryScheduled):
        plan.hub.emit(RetryScheduled(plan.name, attempt, step.pause, type(error).__name__))
    return step


def _unpaid(plan: Plan, step: Step, until: float) -> Stop | None:
    """After the pause: why the try does not take place after all. None: it does, and is paid for."""
    now = plan.monotonic()
    if until <= now:
        _put_back(plan, step)
        return "deadline"
    if step.reservation is not None and not plan.purse.confirm(step.reservation, now):
        return "budget"
    plan.counters.retries += 1
    return None


def _put_back(plan: Plan, step: Step) -> None:
    if step.reservation is not None:
        plan.purse.refund(step.reservation)


def _follow(plan: Plan, failure: Exception, before: BaseException) -> Exception:
    """The error of a further try. It stands as it is; only where the deadline ended it the one before is the cause."""
    if isinstance(failure, DeadlineTooShort) and failure.policy == plan.name:
        # "Not started" would be true of this try alone, not of the call.
        failure = DeadlineExceeded(str(failure), policy=plan.name)
    if isinstance(failure, DeadlineExceeded) and failure.policy == plan.name and failure is not before:
        failure.__cause__ = before
    return failure


def _give_up(
    plan: Plan, error: BaseException, attempt: int, why: Stop | None, until: float, began: float | None
) -> Any:
    """Raise the last error as it is, with a note, or return the last result."""
    now = plan.monotonic()
    if why is not None:
        _tell(plan, error, attempt, why)
    if isinstance(error, Unwanted):
        plan.counters.good += 1.0
        return error.result
    if why is not None or attempt > 1:
        tries = "1 try" if attempt == 1 else f"{attempt} tries"
        budget = (
            "" if plan.purse is None else f"; retry budget: {plan.purse.tokens:.1f} of {plan.purse.cap:g} tokens left"
        )
        ended = "" if why is None else f", {_WHY[why]}"
        took = "" if began is None else f" in {format_duration(now - began)}"
        _note(error, f"policy {plan.name!r}: {tries}{took}{ended}{budget}")
    if why == "deadline" and now >= until and not isinstance(error, DeadlineExceeded):
        raise DeadlineExceeded(
            f"policy {plan.name!r}: the deadline passed before another try, after {attempt}", policy=plan.name
        ) from error
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


def _tell(plan: Plan, error: BaseException, attempt: int, why: Stop) -> None:
    hub, kind = plan.hub, type(error).__name__
    if why == "budget":
        plan.counters.retries_refused += 1
        if hub.wants(BudgetExhausted):
            hub.emit(BudgetExhausted(plan.name, attempt, kind))
    elif hub.wants(RetryRefused):
        hub.emit(RetryRefused(plan.name, attempt, why, kind))


def _note(error: BaseException, text: str) -> None:
    # One instance may be raised by many calls; it must not grow without end.
    if len(getattr(error, "__notes__", ())) < 8:
        error.add_note(text)
