"""The success path of a policy as one function, written out for exactly the layers it has.

Theory. Nested decorators cost a frame, a ``*args`` and a ``try`` for each layer, whether the layer has anything to do
or not; for four layers that is twice what the layers themselves cost (the decision is recorded in ``docs/decisions``).
So the source of one function is put together here from the lines of each layer and compiled, once per *shape* (which
layers there are, asynchronous or not) for all policies. ``inspect.getsource`` and tracebacks show it.

Three kinds come of the same lines:

- ``wrapper(*args, **kwargs)`` stands for a decorated function. It finds its policy's `Plan` under a global name of its
  own (see `policy` for how that is swapped while calls are under way) and does the first try itself.
- ``call(plan, fn, idempotent, args, kwargs)`` is the same for `Policy.call`.
- ``attempt(plan, fn, args, kwargs, outer, until)`` is a single try, for `again` and for hedges.

What a call takes is kept in its local variables, ``held`` together, and goes back through `Plan.settle` if anything
but success comes of it.
"""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold.resilience.again import again_async, again_sync
from tenfold.resilience.plan import LateResult, Unwanted
from tenfold.resilience.scope import SCOPE
from tenfold.resilience.wheel import NO_LINE, task_of, unused

Kind = Literal["wrapper", "call", "attempt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Which layers a policy has."""

    deadline: bool = False
    timeout: bool = False
    retry: bool = False
    budget: bool = False
    on_result: bool = False
    hedge: bool = False
    breaker: Literal["", "one", "keyed"] = ""
    meter: Literal["", "local", "remote"] = ""
    meter_key: bool = False
    adaptive: bool = False
    bulkhead: bool = False
    fallback: bool = False
    chaos: bool = False

    def __str__(self) -> str:
        parts = []
        for name in self.__slots__:
            value = getattr(self, name)
            if value:
                parts.append(name if value is True else f"{name}:{value}")
        return "+".join(parts)


def _returned_coroutine(result: Any, fn: Any) -> None:
    result.close()
    raise MisuseError(
        f"policy: {getattr(fn, '__qualname__', fn)!r} is a plain function and returned a coroutine, which nobody "
        "here can wait for; write it as `async def`, or give the asynchronous function itself"
    )


NAMES: Final[dict[str, Any]] = {
    "scope_get": SCOPE.get,
    "scope_set": SCOPE.set,
    "scope_reset": SCOPE.reset,
    "get_ident": get_ident,
    "task_of": task_of,
    "NO_LINE": NO_LINE,
    "unused": unused,
    "Coroutine": CoroutineType,
    "LateResult": LateResult,
    "Unwanted": Unwanted,
    "again_sync": again_sync,
    "again_async": again_async,
    "returned_coroutine": _returned_coroutine,
}


class _Lines:
    """Source under construction."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, *lines: str) -> None:
        self.lines.extend("    " * self.depth + line for line in lines)

    def block(self, line: str) -> _Lines:
        self(line)
        self.depth += 1
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self.depth -= 1


def source(shape: Shape, kind: Kind, asynchronous: bool, plan_name: str = "PLAN") -> str:
    """The source of one function."""
    out = _Lines()
    define = "async def" if asynchronous else "def"
    if kind == "attempt":
        with out.block(f"{define} attempt(plan, fn, args, kwargs, outer, until):"):
            out("now = plan.monotonic()")
            with out.block("if until <= now:"):
                out("raise plan.too_late()")
            _attempt(out, shape, asynchronous, kind)
    elif kind == "call":
        with out.block(f"{define} call(plan, fn, idempotent, args, kwargs):"):
            _fallback(out, shape, asynchronous, kind)
    else:
        with out.block(f"{define} wrapper(*args, **kwargs):"):
            out(f"plan = {plan_name}")
            _fallback(out, shape, asynchronous, kind)
    return "\n".join(out.lines) + "\n"


def _fallback(out: _Lines, shape: Shape, asynchronous: bool, kind: Kind) -> None:
    if not shape.fallback:
        _deadline(out, shape, asynchronous, kind)
        return
    with out.block("try:"):
        _deadline(out, shape, asynchronous, kind)
    with out.block("except Exception as error:"):
        with out.block("if not plan.substitutes(error):"):
            out("raise")
        answer = "await plan.stopgap.answer_async" if asynchronous else "plan.stopgap.answer"
        out(f"return {answer}(error, args, kwargs)")


def _deadline(out: _Lines, shape: Shape, asynchronous: bool, kind: Kind) -> None:
    out("now = plan.monotonic()", "outer = scope_get()")
    if shape.deadline:
        out("until = now + plan.deadline")
        with out.block("if outer[0] < until:"):
            out("until = outer[0]")
            with out.block("if until <= now:"):
                out("plan.counters.failures += 1", "raise plan.too_late()")
    else:
        out("until = outer[0]")
        with out.block("if until <= now:"):
            out("plan.counters.failures += 1", "raise plan.too_late()")
    timed = asynchronous and shape.timeout and not shape.hedge
    if not (shape.deadline or shape.retry or timed):
        _retry(out, shape, asynchronous, kind)
        return
    if timed:
        _limit(out)
    out(_inherit(shape, "limit" if timed else "until", "token = "))
    with out.block("try:"):
        _retry(out, shape, asynchronous, kind)
    with out.block("finally:"):
        with out.block("try:"):
            out("scope_reset(token)")
        with out.block("except ValueError:"):
            out("pass  # a coroutine that is closed by the garbage collector, in another context")


def _limit(out: _Lines) -> None:
    out("limit = now + plan.timeout")
    with out.block("if until < limit:"):
        out("limit = until")


def _inherit(shape: Shape, until: str, token: str = "") -> str:
    """What is called inherits the end of the try. Only the outermost scope is reset, which undoes all."""
    return f"{token}scope_set(({until}, {'True' if shape.retry else 'outer[1]'}))"


def _retry(out: _Lines, shape: Shape, asynchronous: bool, kind: Kind) -> None:
    if shape.budget:
        out("purse = plan.purse")
        with out.block("if purse.tokens < purse.cap:"):
            out("purse.deposit()")
    if shape.retry:
        out("began = now")
    _attempt(out, shape, asynchronous, kind)
    if shape.retry:
        wait, again = ("await ", "again_async") if asynchronous else ("", "again_sync")
        out(f"return {wait}{again}(plan, box, fn, idempotent, args, kwargs, outer, until, began)")


def _held(shape: Shape, asynchronous: bool) -> str:
    timed = asynchronous and (shape.deadline or shape.timeout)
    parts = ["started", "now", "until"]
    parts += ["circuit" if shape.breaker else "None", "ticket" if shape.breaker else "None"]
    parts += ["entry" if shape.adaptive else "None", "permit" if shape.bulkhead else "None"]
    parts.append("None if task is None else (armed, limit, task, base)" if timed else "None")
    return ", ".join(parts)


def _attempt(out: _Lines, shape: Shape, asynchronous: bool, kind: Kind) -> None:
    """One try: the lines from the breaker down, and what becomes of a failure."""
    hedged = shape.hedge and asynchronous and kind != "attempt"
    timed = asynchronous and (shape.deadline or shape.timeout) and not hedged
    if not hedged:
        out("started = False")
        for name, there in (
            ("circuit = ticket", shape.breaker),
            ("entry", shape.adaptive),
            ("permit", shape.bulkhead),
            ("task", timed),
        ):
            if there:
                out(f"{name} = None")
    with out.block("try:"):
        if hedged:
            out("result = await plan.hedged(fn, args, kwargs, outer, until)")
        else:
            _take(out, shape, asynchronous, kind)
            if timed:
                _arm(out, shape, kind)
            out("started = True")
            _run(out, shape, asynchronous)
            _give_back(out, shape, timed)
        _result(out, shape, kind)
    with out.block("except BaseException as error:"):
        if kind == "attempt":
            out(f"other = plan.settle(error, outer, {_held(shape, asynchronous)})")
            with out.block("if other is error:"):
                out("raise")
            out("raise other from error")
        else:
            held = "None" if hedged else f"({_held(shape, asynchronous)})"
            out(f"box = plan.failed(error, {'idempotent' if shape.retry else 'False'}, outer, {held})")
            with out.block("if box is None:"):
                out("raise")


def _take(out: _Lines, shape: Shape, asynchronous: bool, kind: Kind) -> None:
    timed = asynchronous and shape.timeout and kind != "attempt"
    if shape.breaker:
        keyed = shape.breaker == "keyed"
        out(
            "circuit = plan.circuits.of(plan.breaker_key(*args, **kwargs))" if keyed else "circuit = plan.circuit",
            "ticket = circuit.ticket or circuit.admit(now)",
        )
    if shape.meter:
        key = ", plan.meter_key(*args, **kwargs)" if shape.meter_key else ""
        if shape.meter == "remote" and asynchronous:
            out(f"await plan.meter.admit_async(now{key})", "now = plan.resume(until)")
            if timed:
                _limit(out)
                out(_inherit(shape, "limit"))
        else:
            out(f"plan.meter.admit(now{key})")
    if shape.adaptive:
        out("entry = plan.limiter.enter(now)")
    if shape.bulkhead:
        out("places = plan.places")
        with out.block("try:"):
            out("permit = places.free.pop()")
        with out.block("except IndexError:"):
            out("pass")
        with out.block("if permit is None:"):
            out(f"permit = {'await places.wait' if asynchronous else 'places.wait_thread'}(until)")
            out("now = plan.resume(until)")
            if timed:
                _limit(out)
                out(_inherit(shape, "limit"))


def _arm(out: _Lines, shape: Shape, kind: Kind) -> None:
    if not shape.timeout:
        out("limit = until")
    elif kind == "attempt":
        _limit(out)
        out(_inherit(shape, "limit"))
    out("line = plan.line_of(get_ident(), NO_LINE)", "running = task_of(line.loop)")
    with out.block("if running is None:"):
        out("line, running = plan.lines.find()")
    out("base = running.cancelling()")
    with out.block("if not line.start <= limit < line.end:"):
        out("line.turn(limit)")
    out("armed = line.armed")
    with out.block("if limit in armed:"):
        out("limit = unused(armed, limit)")
    out("armed[limit] = task = running")


def _run(out: _Lines, shape: Shape, asynchronous: bool) -> None:
    wait = "await " if asynchronous else ""
    if shape.chaos:
        out("injection = plan.injector.plan(now, args, kwargs)")
        with out.block("if injection is None:"):
            out(f"result = {wait}fn(*args, **kwargs)")
        with out.block("else:"):
            with out.block("if injection.delay:"):
                out("await plan.clock.sleep(injection.delay)" if asynchronous else "plan.sleep_sync(injection.delay)")
            with out.block("if injection.error is not None:"):
                out("raise injection.error")
            out(f"result = injection.outcome if injection.replaces else {wait}fn(*args, **kwargs)")
    else:
        out(f"result = {wait}fn(*args, **kwargs)")
    if not asynchronous:
        with out.block("if result.__class__ is Coroutine:"):
            out("returned_coroutine(result, fn)")


def _give_back(out: _Lines, shape: Shape, timed: bool) -> None:
    if timed:
        with out.block("try:"):
            out("del armed[limit]")
        with out.block("except KeyError:"):
            out("raise LateResult('the call went on after its time-out; its result is discarded') from None")
        out("task = None")
    if shape.bulkhead:
        out("places.free.append(permit)", "permit = None")
        with out.block("if places.waiting:"):
            out("places.wake()")
    quickest = shape.retry and shape.deadline
    if shape.breaker or shape.adaptive or quickest:
        out("end = plan.monotonic()", "elapsed = end - now")
    if shape.adaptive:
        out("leaving = entry", "entry = None", "plan.limiter.leave(leaving, end, True)")
    if shape.breaker:
        out("settled = ticket", "ticket = None", "circuit.success(settled, end, elapsed)")
    if quickest:
        with out.block("if elapsed < plan.quickest:"):
            out("plan.quickest = elapsed")


def _result(out: _Lines, shape: Shape, kind: Kind) -> None:
    if kind == "attempt":
        out("return result")
        return
    if shape.on_result and shape.retry:
        with out.block("if outer[1] or not plan.unwanted(result, idempotent):"):
            out("plan.counters.successes += 1", "return result")
        out("box = [Unwanted(result)]")
        return
    out("plan.counters.successes += 1", "return result")


@lru_cache(maxsize=512)
def compiled(shape: Shape, kind: Kind, asynchronous: bool, plan_name: str = "PLAN") -> CodeType:
    """The code of one function; its source stays in `linecache`, where tracebacks look for it."""
    text = source(shape, kind, asynchronous, plan_name)
    suffix = "" if plan_name == "PLAN" else f" {plan_name}"
    filename = f"<tenfold policy {'async ' if asynchronous else ''}{kind}: {shape}{suffix}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    module = compile(text, filename, "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def function(shape: Shape, kind: Kind, asynchronous: bool) -> FunctionType:
    """A ``call`` or an ``attempt``, which need no names of their own."""
    return FunctionType(compiled(shape, kind, asynchronous), {**NAMES, "__builtins__": __builtins__})
