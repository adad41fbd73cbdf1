"""What a request costs with two processes, beside one: in CPU, so that it says the same on any number of cores.

``two_processes_scaling`` is the cost with one process over the cost with two, times two: 2 would be perfect, 1.8 is
11 % dearer. On the bench's machine wrk and the backend share the cores with both, so requests a second would say less.
"""

from __future__ import annotations

from typing import Any

from bench._gateway_cost import Load, compare
from bench._gateway_peers import Bench


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """The ratio, and both costs; null where several processes are not to be had."""
    one, two = bench.ours("one"), bench.ours("two", processes=2)
    if one is None or two is None or len(two.pids) < 2:
        return {"two_processes_scaling": None}
    rounds, seconds = (2, 1) if quick else (7, 2)
    best, rates = compare(Load(bench, "/"), {"one": one, "two": two}, rounds, seconds)
    return {
        "two_processes_scaling": round(2 * best["one"] / best["two"], 3),
        "processes_cpu_us": {name: round(value, 1) for name, value in best.items()},
        "processes_requests_s": {name: round(value) for name, value in rates.items()},
    }
