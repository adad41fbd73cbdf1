"""What the gateway costs beside HAProxy, nginx, an aiohttp proxy, Caddy, Traefik and Envoy, and what it withstands."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import Any

from bench import _gateway_cost, _gateway_engine, _gateway_holding, _gateway_rolling, _gateway_scaling
from bench._gateway_peers import Bench, binary, many_files


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers; null, and a note, where something that is needed for one is not installed."""
    missing = [name for name, there in (("wrk", shutil.which("wrk")), ("nginx", binary("nginx"))) if not there]
    if missing:
        return {"notes": [f"SKIPPED: {' and '.join(missing)} must be installed for every number of this bench"]}
    many_files()
    allowed = sorted(os.sched_getaffinity(0))
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        bench = Bench(stack, (allowed[0], allowed[-1]))
        if len(allowed) < 2:
            bench.notes.append("one core only: proxies, load and backend share it")
        for part in (_gateway_cost, _gateway_engine, _gateway_scaling, _gateway_holding, _gateway_rolling):
            found |= part.measure(bench, quick)
        found["notes"] = bench.notes
    return found
