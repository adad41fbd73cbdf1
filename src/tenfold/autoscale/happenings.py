"""What autoscaling tells. Nothing is told of a decision that changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event
from tenfold.autoscale.policy import Decision


@dataclass(frozen=True, slots=True)
class Scaled(Event):
    """The number of workers of ``app`` is to be another one."""

    app: str
    before: int
    after: int
    codes: tuple[str, ...]
    """The codes of the reasons, for a program."""
    why: str
    """For a person."""

    @classmethod
    def of(cls, app: str, decision: Decision) -> Scaled:
        """What to tell of ``decision``."""
        codes = tuple(str(code) for code in decision.codes)
        return cls(app, decision.current, decision.desired, codes, str(decision))
