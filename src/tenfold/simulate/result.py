"""What a simulation leaves behind: plain records and their JSON. Durations are seconds of virtual time.

Nothing in it depends on the machine or on how long it took, so that one seed gives one file, byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tenfold._core.errors import MisuseError

FORMAT: Final = 1


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From arrival to the last answer, tries included. Failures count as infinitely slow: then a percentile is None."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    mean: float | None
    """Of what was answered, exact."""
    max: float | None


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One interval of the run, which ends ``at``: answers and errors a second, the most requests open at once."""

    at: float
    answered: float
    errors: float
    in_flight: int
    p50: float | None
    p95: float | None
    p99: float | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A client began to see an endpoint in another way: down, up, ejected, returned, panic, calm."""

    at: float
    client: int
    endpoint: str
    what: str


class ServerResult(msgspec.Struct, frozen=True, kw_only=True):
    """One server, all clients together, in attempts."""

    id: str
    zone: str
    weight: float
    taken: int
    answered: int
    refused: int
    reset: int
    wasted: int
    """Worked on for a caller that had given up."""
    peak: int
    """The most that were here at once, waiting or in service."""
    mean_in_system: float
    mean_wait: float
    """Seconds from arrival here to the start of the work."""
    utilisation: float


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy under the scenario's traffic. ``arrived = answered + failed + refused + in_flight``."""

    policy: str
    arrived: int
    answered: int
    failed: int
    refused: int
    in_flight: int
    """Open when the run ended."""
    errors: dict[str, int]
    """Requests that came to nothing, by the last reason."""
    faults: dict[str, int]
    """Tries that came to nothing, by reason."""
    retries: int
    latency: Latency
    mean_wait: float
    """Seconds from arrival at a server to the start of the work, over all attempts."""
    max_in_flight: int
    """The most attempts at one server at once."""
    imbalance: float
    """Attempts per weight of the busiest server over the mean; 1 is even."""
    cross_zone: float
    """The share of attempts that left the caller's zone; 0 where nobody has a zone."""
    seconds: float
    events: int
    series: list[Moment]
    changes: list[Change]
    changes_left_out: int
    servers: list[ServerResult]

    @property
    def error_share(self) -> float:
        """Failed and refused requests over those that are over, 0…1."""
        over = self.answered + self.failed + self.refused
        return (self.failed + self.refused) / over if over else 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario and what each of its policies made of it."""

    scenario: str
    seed: int
    policies: list[PolicyResult]
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Indented JSON; the same bytes for the same scenario and seed."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def save(self, path: str | Path) -> None:
        """Write the JSON. Raises `MisuseError` where it cannot be written."""
        try:
            Path(path).write_bytes(self.to_json())
        except OSError as exc:
            raise MisuseError(f"simulate: cannot write {path}: {exc.strerror or exc}") from exc

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote. Raises `MisuseError` for anything else."""
        try:
            found = msgspec.json.decode(Path(path).read_bytes(), type=cls)
        except OSError as exc:
            raise MisuseError(f"simulate: cannot read {path}: {exc.strerror or exc}") from exc
        except msgspec.DecodeError as exc:
            raise MisuseError(f"{path}: expected a result of tenfold simulate, got {exc}") from exc
        if found.format != FORMAT:
            raise MisuseError(f"{path}: expected format {FORMAT}, got {found.format!r}; simulate again")
        return found
