"""What a simulation of scaling leaves behind: plain records and their JSON, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tenfold._core.errors import MisuseError


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: what was seen over the period before it, and what was ``wanted`` from then on.

    ``rate``: arrivals a second. ``in_flight``: mean of all ready workers together. ``p95``: of what was answered, in
    seconds; None where nothing was. ``good``: the share of what ended that was answered within the SLO; None where
    nothing ended. ``why``: the last reason.
    """

    at: float
    ready: int
    wanted: int
    rate: float
    in_flight: float
    p95: float | None
    good: float | None
    why: str


class ScaleResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy under the scenario's traffic. ``arrived = good + late + refused``."""

    label: str
    arrived: int
    good: int
    """Answered within the SLO."""
    late: int
    refused: int
    worker_seconds: float
    """From the decision to start each worker until it had ended its last request: what is paid for."""
    most: int
    """The most workers that were wanted at once."""
    changes: int
    turns: int
    """Changes against the direction of the one before."""
    agrees: bool | None
    """Whether the exported policy decides as the one that was exported on this series; None: nothing was exported."""
    difference: str
    """Where it first does not; empty where it does."""
    points: list[Point]

    @property
    def share(self) -> float:
        """Good requests over all that arrived."""
        return self.good / self.arrived if self.arrived else 1.0


class ScalingResult(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario and what each policy made of it."""

    scenario: str
    seed: int
    slo: float
    policies: list[ScaleResult]
    format: int = 1

    def to_json(self) -> bytes:
        """Indented JSON; the same bytes for the same scenario and seed."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON. Raises `MisuseError` where it cannot be written."""
        try:
            Path(path).write_bytes(self.to_json())
        except OSError as exc:
            raise MisuseError(f"simulate: cannot write {path}: {exc.strerror or exc}") from exc
