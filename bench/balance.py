"""What a pick costs, what a balanced transport costs, how real servers that are slow, dead or stopped are met, and
whether the simulator agrees with theory.

`_balance_picks`: microseconds for the first member of an ordering, at 10 and at 1000 members, and with `started` and
`finished`; minima of interleaved rounds. `_balance_live`: httpx2 with and without the transport on one server, CPU
time, interleaved; four servers of which one is twenty times slower; one killed and one stopped under 200 requests a
second. `_balance_sim`: a million requests to a thousand simulated servers, and results beside those of theory.
"""

from __future__ import annotations

from typing import Any

from bench import _balance_live, _balance_picks, _balance_sim


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers. ``pick_growth_worst`` names the policy whose cost grows most from 10 to 1000 members."""
    picks = _balance_picks.measure(quick)
    growth: dict[str, float] = picks["pick_growth"]
    worst = max(growth, key=growth.__getitem__)
    return {
        "pick_p2c_us": picks["pick_us_1000"]["p2c"],
        "pick_growth_worst": {worst: growth[worst]},
        **picks,
        **_balance_live.measure(quick),
        **_balance_sim.measure(quick),
    }
