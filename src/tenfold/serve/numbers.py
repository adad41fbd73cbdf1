"""What `tenfold serve` adds to its gateway's metrics."""

from __future__ import annotations

from typing import Any

from tenfold.autoscale.supervisor import Fleet
from tenfold.serve.scaling import Scaling


def serve_samples(app: str, fleet: Fleet, scaling: Scaling) -> list[dict[str, Any]]:
    """Samples as `tenfold.gateway.admin` makes them, with the names of its table."""
    states = {"starting": 0, "ready": 0, "draining": 0}
    for member in fleet.members:
        if member.state in states:
            states[member.state] += 1
    found = [
        _sample("tenfold_in_flight", scaling.meter.total, app=app),
        _sample("tenfold_serve_waiting", scaling.meter.waiting, app=app),
        _sample("tenfold_serve_workers_wished", fleet.wish, app=app),
        _sample("tenfold_serve_crashes_total", fleet.crashes, app=app),
        _sample("tenfold_serve_restarts_total", fleet.restarts, app=app),
        _sample("tenfold_serve_recycled_total", fleet.recycled, app=app),
    ]
    found += [_sample("tenfold_serve_workers", count, app=app, state=state) for state, count in states.items()]
    found += [
        _sample("tenfold_serve_decisions_total", count, app=app, direction=direction)
        for direction, count in scaling.decisions.items()
    ]
    return found


def _sample(name: str, value: float, **labels: str) -> dict[str, Any]:
    return {"name": name, "labels": labels, "value": value}
