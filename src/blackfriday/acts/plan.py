"""How long each act may take. All times in seconds; see docs/concepts/the-proof.md for why they are what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of one telling of the story."""

    quick: bool
    search_budget: float
    """For the search of one breakpoint, finding its neighbourhood included."""
    baseline_budget: float
    """The same for the baseline, by whose breakpoint everything is multiplied."""
    edge_budget: float
    """The same for the last rung, whose neighbourhood is known from the rung before (full runs only)."""
    search_samples: int
    """Arrivals a probe; the 95th percentile of fewer than a thousand is noisy."""
    probe_seconds: float
    """A probe lasts no longer, however slow the shop; only the draft is so slow that this cuts its samples."""
    precision: float
    fixed_seconds: float
    """For each rung at the fixed rate (quick runs only)."""
    block_seconds: float
    blocks: int
    """Blocks of before and of after, each, interleaved."""
    direct_seconds: float
    """At ten times the rate past the gateway, for what a request costs without it."""
    hold_seconds: float
    scale_seconds: float
    """The ramp under which the shop gives itself workers (full runs only; 0 for none)."""
    warmup: float
    """Before each block and before the long run."""
    warm: int
    """Products that the caches are warmed with, the most viewed first."""
    warm_cache_rung: int
    """The same for the rung that only adds the cache."""
    finish: float
    """Seconds from the beginning within which the blocks of before and after are over, as far as they have enough
    samples by then.
    """


FULL: Final = Plan(
    quick=False,
    search_budget=42.0,
    baseline_budget=100.0,
    edge_budget=15.0,
    search_samples=1000,
    probe_seconds=15.0,
    precision=0.08,
    fixed_seconds=0.0,
    block_seconds=12.0,
    blocks=2,
    direct_seconds=4.0,
    hold_seconds=30.5,
    scale_seconds=23.0,
    warmup=3.0,
    warm=40_000,
    warm_cache_rung=40_000,
    finish=460.0,
)
QUICK: Final = Plan(
    quick=True,
    search_budget=24.0,
    baseline_budget=20.0,
    edge_budget=0.0,
    search_samples=700,
    probe_seconds=7.0,
    precision=0.2,
    fixed_seconds=2.0,
    block_seconds=6.0,
    blocks=2,
    direct_seconds=1.5,
    hold_seconds=30.5,
    scale_seconds=0.0,
    warmup=1.0,
    warm=40_000,
    warm_cache_rung=2_000,  # it is tried at a rate that the baseline can bear, and promises nothing
    finish=110.0,
)
