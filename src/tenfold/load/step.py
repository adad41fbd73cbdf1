"""`step`, the unit that is measured, and `check`, what must hold in it."""

from __future__ import annotations

from collections.abc import Container
from time import monotonic
from types import TracebackType
from typing import Self

import msgspec

from tenfold._core.errors import MisuseError
from tenfold.load.errors import RequestFailed
from tenfold.load.trampoline import running


class _Sample(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """What the run fills in. A Struct, because it is made in a third of the time of a class."""

    expect: Container[int] | None = None
    intended: float = 0.0
    sent: float = 0.0
    answered: float = 0.0
    kind: str | None = None


class step(_Sample, eq=False, gc=False):  # noqa: N801 - reads as a keyword in scenario files
    """``with step("cart"): …`` measures everything in the block as one sample.

    ``expect``
        The statuses that count as good, for example ``(200, 404)`` or ``range(200, 500)``. Default: 200–399.

    Times, in seconds on the monotonic clock: *intended* is when the schedule wanted the journey (first step)
    or when the block was entered (later ones); *sent* is when the first byte of the first request went out;
    *answered* is when the last answer was complete. The first thing that fails names the sample's error.
    """

    name: str

    def __enter__(self) -> Self:
        user = running.user
        if user is None:
            raise MisuseError(f"step({self.name!r}): expected to be inside a running journey")
        if user._step is not None:
            raise MisuseError(f"step({self.name!r}): expected no open step, got {user._step.name!r}; close it first")
        user._step = self
        first = user._first
        if first is None:
            self.intended = monotonic()
        else:
            self.intended = first
            user._first = None
        return self

    def judge(self, status: int) -> None:
        """Make the sample an error where ``status`` is not among those that count as good."""
        if not (200 <= status < 400 if self.expect is None else status in self.expect):
            self.fail(f"status {status}")

    def fail(self, kind: str) -> None:
        """Make the sample an error, unless it is one already."""
        if self.kind is None:
            self.kind = kind

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        user = running.user
        if user is None:  # the run ended around it; the engine counts it as unfinished
            return
        user._step = None
        if kind is None and self.kind is None and self.answered != 0.0:
            user._samples += 1
            user._engine.good[self.name].extend((self.intended, self.sent, self.answered))
            return
        if kind is not None:
            user._counted = id(error)
            if self.kind is None:
                self.kind = error.kind if isinstance(error, RequestFailed) else f"exception: {kind.__name__}"
        if self.answered == 0.0:
            self.answered = monotonic()
            if self.sent == 0.0:
                self.sent = self.answered if kind is not None else self.intended
        user._samples += 1
        if self.kind is None:
            user._engine.good[self.name].extend((self.intended, self.sent, self.answered))
        else:
            user._engine.recorder.failed(self.name, self.intended, self.sent, self.answered, self.kind)

    def __repr__(self) -> str:
        return f"step({self.name!r}, {'open' if self.kind is None else self.kind})"


def check(holds: object, name: str = "check") -> bool:
    """Make the open step an error of kind ``check: name`` where ``holds`` is false; never raises for that.

    Returns whether it held, so that a journey can turn back: ``if not check(…): return``.
    """
    if holds:
        return True
    user = running.user
    if user is None:
        raise MisuseError(f"check({name!r}): expected to be inside a running journey")
    if user._step is not None:
        user._step.fail(f"check: {name}")
    else:
        user._engine.loose_check(user, name)
    return False
