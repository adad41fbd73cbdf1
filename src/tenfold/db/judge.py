"""What follows from what the watch found: roles, generations, the election, lag.

Synchronous, so that no reader or writer ever sees half of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tenfold._core.events import Hub
from tenfold._core.units import format_duration
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.election import Election
from tenfold.db.happenings import LagChanged, PrimaryElected, PrimaryRefused, RoleChanged
from tenfold.db.lag import LagSwitch, Trail
from tenfold.db.node import Node
from tenfold.db.position import Position
from tenfold.db.probe import Found
from tenfold.db.seen import Seen


class _Known:
    """What is remembered of one node."""

    __slots__ = ("database", "lag", "was")

    def __init__(self, lag: LagSwitch) -> None:
        self.database: str | None = None
        self.lag = lag
        self.was: tuple[str, int, int] | None = None  # role, system, timeline as last seen


class Judge:
    """Over ``nodes``, of which ``nodes[0]`` is declared the primary. ``elected`` is called after each change of the
    winner, when everybody may be told.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        options: ClusterOptions,
        *,
        hub: Hub,
        monotonic: Callable[[], float],
        elected: Callable[[], None],
    ) -> None:
        self._nodes: Final = {node.name: node for node in nodes}
        self._declared: Final = nodes[0]
        self._hub, self._monotonic, self._elected = hub, monotonic, elected
        self._limits = options.lag_limits()
        self._known = {node.name: _Known(LagSwitch(self._limits)) for node in nodes}
        self.election: Final = Election()
        self.trail: Final = Trail()
        self.elections = 0
        """Times that a server became the one that takes the writes; the first is no failover."""
        self._home: Node | None = None  # the last winner: its database is the cluster's
        self.there: Final = asyncio.Event()
        """Set while there is a primary."""

    @property
    def winner(self) -> Node | None:
        """The node that takes the writes; None while there is none."""
        name = self.election.winner
        return None if name is None else self._nodes[name]

    def judge(self, node: Node, found: Found, reason: str, began: float | None = None) -> None:
        """``node`` was found to be that, for that reason, by a question asked at the monotonic time ``began``."""
        state = self._known[node.name]
        now = self._monotonic()
        position = found.position
        before = node.seen.role
        if found.role == "unknown":
            node.seen = Seen("unknown", None, None, state.lag.update(None), now)
        else:
            self._generation(node, state, found)
            state.database = found.database or state.database  # not told before it has replayed anything
            node.seen = replace(
                node.seen, role=found.role, position=position, at=now, hidden=found.hidden, read_only=found.read_only
            )
            if before == "unknown" and not node.usable(now):
                node.circuit.reset()
        if node.seen.role != before:
            timeline = None if position is None else position.timeline
            self._hub.emit(RoleChanged(node.name, before, node.seen.role, timeline, reason))
        changed = self._elect()
        for one in self._nodes.values() if changed or node is self._home else (node,):
            one.stranger = self._none_of_ours(one)
        if self.winner is node and position is not None:
            self.trail.note(position, now if began is None else began)
        if changed:
            for other in self._nodes.values():
                self._measure(other, now)
        else:
            self._measure(node, now)

    def _generation(self, node: Node, state: _Known, found: Found) -> None:
        position: Position | None = found.position
        if position is None:
            return
        known, state.was = state.was, (found.role, position.system, position.timeline)
        if known is None or known == state.was:
            return
        if known[0] != found.role:
            node.advance(f"it was a {known[0]} and is a {found.role}")
        elif known[1] != position.system:
            node.advance(f"it was of system {known[1]} and is of {position.system}")
        elif found.role == "primary":
            node.advance(f"it was on timeline {known[2]} and is on {position.timeline}")
        # A replica that follows its new primary onto another timeline is the same server with the same data.

    def _none_of_ours(self, node: Node) -> str:
        position, system = node.seen.position, self.election.system
        if position is None or system is None:
            return ""
        if position.system != system:
            return "it belongs to another system"
        return self._elsewhere(node)

    def _elsewhere(self, node: Node) -> str:
        """A server has many databases, and a URL that names another one is a valid URL."""
        if self._home is None:
            return ""
        database, ours = self._known[node.name].database, self._known[self._home.name].database
        return f"its URL leads to database {database!r}, the primary's to {ours!r}" if database != ours else ""

    def _elect(self) -> bool:
        before = self.election.winner
        # The cluster is the system of the one that was declared its primary, so that one is heard first: another that
        # answered quicker may be of another system, or have started as a copy of it.
        heard = self._nodes.values() if self._declared.seen.at > -math.inf else ()
        placed = [node for node in heard if node.seen.position is not None]
        elsewhere = {node.name: why for node in placed if (why := self._elsewhere(node))}
        outcome = self.election.decide((node.name, node.seen) for node in heard if node.name not in elsewhere)
        refused = {name: why for name, why in elsewhere.items() if self._nodes[name].seen.role == "primary"}
        refused.update(outcome.refused)
        for name, node in self._nodes.items():
            reason = refused.get(name, "")
            if reason and not node.refused:
                self._hub.emit(PrimaryRefused(name, reason))
                node.advance(f"it is refused as a primary: {reason}")
            node.refused = reason
        if outcome.winner == before:
            return False
        if outcome.winner is None:
            self.there.clear()
        else:
            self.there.set()
            self.elections += 1
            self._home = self._nodes[outcome.winner]
        self._elected()
        self._hub.emit(PrimaryElected(outcome.winner, before, self.election.timeline))
        return True

    def _measure(self, node: Node, now: float) -> None:
        seen, state = node.seen, self._known[node.name]
        if seen.role == "replica" and seen.position is not None:
            behind = None if self.winner is None else self.trail.behind(seen.position, now, float(self._limits.horizon))
        elif node is self.winner:
            behind = (0.0, 0)
        else:
            behind = None
        lag, lag_bytes = (None, None) if behind is None else behind
        before, after = seen.lag_state, state.lag.update(lag)
        earlier = seen.position is not None and seen.position.timeline < (self.election.timeline or 0)
        node.seen = replace(seen, lag=lag, lag_state=after, lag_bytes=lag_bytes, hidden=seen.hidden and earlier)
        if before != after:
            self._hub.emit(LagChanged(node.name, before, after, lag))

    def told(self, what: str, waited: float) -> str:
        """Why there is no primary, in words, with what each node is."""
        nodes = "; ".join(
            f"{name} is {'refused: ' + node.refused if node.refused else node.seen.role}"
            + (f" ({node.last_error})" if node.last_error and node.seen.role == "unknown" else "")
            for name, node in self._nodes.items()
        )
        within = f" within {format_duration(waited)}" if waited else ""
        silent = all(node.seen.role == "unknown" for node in self._nodes.values())
        advice = "look at the servers and at their URLs" if silent else "try again when one is promoted"
        return f"no primary {what}{within}: {nodes}. Nothing was sent; {advice}"
