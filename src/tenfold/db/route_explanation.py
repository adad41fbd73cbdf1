"""Where a statement would go, told to a person: `AsyncCluster.explain_route`."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold.db.classify import Verdict
from tenfold.db.route import Needs, Route


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """Where a statement would go now, and why. ``to`` is what was decided; the first of ``places`` is where it would
    run: the primary, for a read that no replica may serve.
    """

    to: Route
    why: str
    verdict: Verdict
    places: tuple[str, ...]
    """The servers that may run it, best first, each with the reason."""
    out: tuple[str, ...] = ()
    """Those that may not."""
    needs: Needs | None = None
    """Which state was asked for, of a read."""

    def __str__(self) -> str:
        out = f"; not {'; '.join(self.out)}" if self.out else ""
        return f"{self.to}: {self.why}. Verdict: {self.verdict}. Servers: {', '.join(self.places)}{out}"
