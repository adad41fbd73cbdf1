"""The acts of the proof: set the stage, measure, find, fix, prove, check."""

from blackfriday.acts.plan import FULL, QUICK, Plan
from blackfriday.acts.tell import blank, tell

__all__ = ["FULL", "QUICK", "Plan", "blank", "tell"]
