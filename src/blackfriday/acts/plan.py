"""How long each act may take. All times in seconds; see docs/concepts/the-proof.md for why they are what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of one telling of the story."""

    quick: bool
    search_budget: float
    """For the search of one breakpoint, after its neighbourhood is known."""
    search_samples: int
    """Arrivals a probe; the 95th percentile of fewer than a thousand is noisy."""
    precision: float
    fixed_seconds: float
    """For each rung at the fixed rate (quick runs only)."""
    block_seconds: float
    blocks: int
    """Blocks of before and of after, each, interleaved."""
    hold_seconds: float
    warmup: float


FULL: Final = Plan(
    quick=False,
    search_budget=38.0,
    search_samples=1000,
    precision=0.07,
    fixed_seconds=0.0,
    block_seconds=12.0,
    blocks=2,
    hold_seconds=30.0,
    warmup=3.0,
)
QUICK: Final = Plan(
    quick=True,
    search_budget=22.0,
    search_samples=700,
    precision=0.15,
    fixed_seconds=3.0,
    block_seconds=6.0,
    blocks=2,
    hold_seconds=30.0,
    warmup=2.0,
)
