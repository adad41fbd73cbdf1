"""The source of a policy's functions, put together from the lines of each layer. Text in, text out; see `fuse`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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

    @property
    def timed(self) -> bool:
        """Whether coroutines are stopped."""
        return self.deadline or self.timeout

    @property
    def clockless(self) -> bool:
        """Whether a success needs no clock, unless a deadline was inherited."""
        return not (self.timed or self.hedge or self.breaker or self.meter or self.adaptive or self.chaos)

    def __str__(self) -> str:
        parts = []
        for name in self.__slots__:
            value = getattr(self, name)
            if value:
                parts.append(name if value is True else f"{name}:{value}")
        return "+".join(parts)


class Weaver:
    """Writes one function. ``arity`` is how many positional parameters a wrapper has, ``p0``, ``p1``, …; None: it takes
    ``*args, **kwargs``.
    """

    def __init__(self, shape: Shape, kind: Kind, asynchronous: bool, arity: int | None) -> None:
        self.shape = shape
        self.kind = kind
        self.asynchronous = asynchronous
        self.wait = "await " if asynchronous else ""
        self.lines: list[str] = []
        self.depth = 0
        if arity is None:
            self.pass_on, self.args, self.kwargs = "*args, **kwargs", "args", "kwargs"
        else:
            self.pass_on = ", ".join(f"p{n}" for n in range(arity))
            self.args, self.kwargs = f"({self.pass_on}{',' if arity == 1 else ''})", "{}"
        self.hedged = shape.hedge and asynchronous and kind != "attempt"
        self.refusing = bool(shape.breaker or shape.meter or shape.adaptive or shape.bulkhead)
        self.timed = shape.timed and asynchronous and not self.hedged

    def __call__(self, *lines: str) -> None:
        self.lines.extend("    " * self.depth + line for line in lines)

    def block(self, line: str) -> Weaver:
        """``with self.block("if …:"):`` indents what is written inside."""
        self(line)
        self.depth += 1
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self.depth -= 1

    def source(self) -> str:
        """The whole function."""
        define = f"{'async ' if self.asynchronous else ''}def {self.kind}"
        if self.kind == "attempt":
            with self.block(f"{define}(plan, fn, args, kwargs, outer, until):"):
                self("now = plan.monotonic()")
                with self.block("if until <= now:"):
                    self("raise plan.too_late()")
                self._attempt()
        elif self.kind == "call":
            with self.block(f"{define}(plan, fn, idempotent, args, kwargs):"):
                self._fallback()
        else:
            with self.block(f"{define}({self.pass_on}):"):
                self("plan = PLAN")
                self._fallback()
        return "\n".join(self.lines) + "\n"

    def _fallback(self) -> None:
        if not self.shape.fallback:
            self._deadline()
            return
        with self.block("try:"):
            self._deadline()
        with self.block("except Exception as error:"):
            with self.block("if not plan.substitutes(error):"):
                self("raise")
            answer = "await plan.stopgap.answer_async" if self.asynchronous else "plan.stopgap.answer"
            self(f"return {answer}(error, {self.args}, {self.kwargs})")

    def _deadline(self) -> None:
        shape = self.shape
        if shape.clockless:
            self._clockless()
            return
        if shape.deadline:
            self("now = plan.monotonic()", "outer = scope_get()", "until = now + plan.deadline")
            with self.block("if outer[0] < until:"):
                self("until = outer[0]")
                self._not_too_late()
        else:
            self("now = plan.monotonic()", "outer = scope_get()", "until = outer[0]")
            self._not_too_late()
        bounded = self.timed and shape.timeout
        if not (shape.deadline or shape.retry or bounded):
            self._retry()
            return
        if bounded:
            self._limit()
        self(f"token = {self._inherit('limit' if bounded else 'until')}")
        self._in_scope()

    def _clockless(self) -> None:
        """Nothing here needs the time, unless a deadline was inherited; and mostly nothing was."""
        self("outer = scope_get()")
        if self.shape.retry:
            self("token = scope_set(RETRIED if outer is NO_SCOPE else inherited(plan, outer))")
            self._in_scope()
            return
        self("until = outer[0]")
        with self.block("if outer is not NO_SCOPE:"):
            self("now = plan.monotonic()")
            self._not_too_late()
        self._retry()

    @property
    def lean(self) -> bool:
        """Whether a success needs nothing of what was inherited."""
        shape = self.shape
        return shape.clockless and shape.retry and not (shape.on_result or shape.bulkhead)

    def _in_scope(self) -> None:
        with self.block("try:"):
            if self.shape.clockless and not self.lean:
                self("until = outer[0]")
            self._retry()
        with self.block("finally:"):
            if self.timed:
                self._forget_the_task()
            if not self.asynchronous:
                self("scope_reset(token)")
                return
            with self.block("try:"):
                self("scope_reset(token)")
            with self.block("except ValueError:"):
                self("pass  # a coroutine that is closed by the garbage collector, in another context")

    def _forget_the_task(self) -> None:
        self("running = task = None  # it holds its exception, whose traceback holds this frame")

    def _not_too_late(self) -> None:
        with self.block("if until <= now:"):
            self("plan.counters.failures += 1", "raise plan.too_late()")

    def _limit(self) -> None:
        self("limit = now + plan.timeout")
        with self.block("if until < limit:"):
            self("limit = until")

    def _inherit(self, until: str) -> str:
        # Only the outermost scope of a call is reset, which undoes all that were set in it.
        return f"scope_set(({until}, {'True' if self.shape.retry else 'outer[1]'}))"

    def _retry(self) -> None:
        shape = self.shape
        if shape.budget:
            with self.block("if plan.purse.hungry:"):
                self("plan.purse.deposit()")
        if shape.retry and not shape.clockless:
            self("began = now")
        self._attempt()
        if shape.retry:
            again = f"{self.wait}again_{'async' if self.asynchronous else 'sync'}"
            began = "None" if shape.clockless else "began"
            self(f"return {again}(plan, box, fn, idempotent, {self.args}, {self.kwargs}, outer, until, {began})")

    def _held(self) -> str:
        shape = self.shape
        now = "0.0" if shape.clockless and self.kind != "attempt" else "now"
        parts = ["started" if self.refusing else "True", now, "until"]
        parts += ["circuit", "ticket"] if shape.breaker else ["None", "None"]
        parts += ["entry" if shape.adaptive else "None", "permit" if shape.bulkhead else "None"]
        parts.append("None if task is None else (armed, limit, task, base)" if self.timed else "None")
        return ", ".join(parts)

    def _attempt(self) -> None:
        """One try: from the breaker down, and what becomes of a failure."""
        if not self.hedged:
            self._nothing_held()
        with self.block("try:"):
            if self.hedged:
                self(f"result = await plan.hedged(fn, {self.args}, {self.kwargs}, outer, until)")
            else:
                self._take()
                if self.timed:
                    self._arm()
                if self.refusing:
                    self("started = True")
                self._run()
                self._give_back()
            self._result()
        with self.block("except BaseException as error:"):
            if self.kind == "attempt":
                self(f"plan.lost(error, outer, ({self._held()}))", "raise")
            else:
                if self.lean:
                    self("until = outer[0]")
                held = "None" if self.hedged else f"({self._held()})"
                self(f"box = plan.failed(error, {'idempotent' if self.shape.retry else 'False'}, outer, {held})")
                with self.block("if box is None:"):
                    self("raise")
        if self.kind == "attempt" and self.timed:
            with self.block("finally:"):
                self._forget_the_task()

    def _nothing_held(self) -> None:
        shape = self.shape
        if self.refusing:
            self("started = False")
        if shape.breaker:
            self("circuit = ticket = None")
        if shape.adaptive:
            self("entry = None")
        if shape.bulkhead:
            self("permit = None")
        if self.timed:
            self("task = None")

    def _take(self) -> None:
        shape = self.shape
        if shape.breaker == "keyed":
            self(f"circuit = plan.circuits.of(plan.breaker_key({self.pass_on}))")
        elif shape.breaker:
            self("circuit = plan.circuit")
        if shape.breaker:
            self("ticket = circuit.ticket or circuit.admit(now)")
        if shape.meter:
            key = f", plan.meter_key({self.pass_on})" if shape.meter_key else ""
            if shape.meter == "remote" and self.asynchronous:
                self(f"await plan.meter.admit_async(now{key})")
                self._after_a_wait()
            else:
                self(f"plan.meter.admit(now{key})")
        if shape.adaptive:
            self("entry = plan.limiter.enter(now)")
        if shape.bulkhead:
            self("places = plan.places")
            with self.block("try:"):
                self("permit = places.free.pop()")
            with self.block("except IndexError:"):
                self("pass")
            with self.block("if permit is None:"):
                self(f"permit = {'await places.wait' if self.asynchronous else 'places.wait_thread'}(until)")
                self._after_a_wait()

    def _after_a_wait(self) -> None:
        self("now = plan.resume(until)")
        if self.timed and self.shape.timeout and self.kind != "attempt":
            self._limit()
            self(self._inherit("limit"))

    def _arm(self) -> None:
        if not self.shape.timeout:
            self("limit = until")
        elif self.kind == "attempt":
            self._limit()
            self(self._inherit("limit"))
        self("line = plan.line_of(get_ident(), NO_LINE)", "running = task_of(line.loop)")
        with self.block("if running is None:"):
            self("line, running = plan.lines.find()")
        self("base = running.cancelling()")
        with self.block("if not line.start <= limit < line.end:"):
            self("line.turn(limit)")
        self("armed = line.armed")
        with self.block("if limit in armed:"):
            self("limit = unused(armed, limit)")
        self("armed[limit] = task = running")

    def _run(self) -> None:
        call = f"{self.wait}fn({self.pass_on})"
        if self.shape.chaos:
            self(f"injection = plan.injector.plan(now, {self.args}, {self.kwargs})")
            with self.block("if injection is None:"):
                self(f"result = {call}")
            with self.block("else:"):
                with self.block("if injection.delay:"):
                    sleep = "await plan.clock.sleep" if self.asynchronous else "plan.sleep_sync"
                    self(f"{sleep}(injection.delay)")
                with self.block("if injection.error is not None:"):
                    self("raise injection.error")
                self(f"result = injection.outcome if injection.replaces else {call}")
        else:
            self(f"result = {call}")
        if not self.asynchronous:
            with self.block("if type(result) is Coroutine:"):
                self("returned_coroutine(result, fn)")

    def _give_back(self) -> None:
        shape = self.shape
        if self.timed:
            with self.block("try:"):
                self("del armed[limit]")
            with self.block("except KeyError:"):
                self("raise LateResult('the call went on after its time-out; its result is discarded') from None")
            self("task = None")
        if shape.bulkhead:
            self("places.free.append(permit)", "permit = None")
            with self.block("if places.waiting:"):
                self("places.wake()")
        quickest = shape.retry and shape.deadline
        if shape.breaker or shape.adaptive or quickest:
            self("end = plan.monotonic()", "elapsed = end - now")
        if shape.adaptive:
            self("leaving = entry", "entry = None", "plan.limiter.leave(leaving, end, True)")
        if shape.breaker:
            self("settled = ticket", "ticket = None", "circuit.success(settled, end, elapsed)")
        if quickest:
            with self.block("if elapsed < plan.quickest:"):
                self("plan.quickest = elapsed")

    def _result(self) -> None:
        if self.kind == "attempt":
            self("return result")
        elif self.shape.on_result and self.shape.retry:
            with self.block("if outer[1] or not plan.unwanted(result, idempotent):"):
                self("plan.counters.good += 1.0", "return result")
            self("box = [Unwanted(result)]")
        else:
            self("plan.counters.good += 1.0", "return result")
