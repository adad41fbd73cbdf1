"""Which server gets the next reader or writer, and why. Pure.

Theory. Readers are spread by the *power of two choices* (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 2001): two are drawn at random and the one that costs less comes first, which keeps the longest queue at
O(log log n) without everybody running to the same idle server. The cost is (in flight + 1) × latency, the expected
wait of the newcomer where service is first come first served. Latencies within a factor of two count as alike: they
are averages over different statements, and going by every difference would leave the slower replica's caches cold. A
latency that is not known counts as alike too: taken for small, it would draw everybody to whoever has just come back.

Before the draw there are classes, best first:

1. replicas that may serve as they are: alive, fresh enough, the token covered, below their adaptive limit;
2. the same at their limit: slower, not wrong;
3. replicas that were not seen at the token's position, to be asked and waited for a short while on the connection that
   will read: between two probes the watch cannot know, and replay mostly trails by a millisecond or two;
4. the primary, up to ``spill`` readers at a time. Replicas that fall behind all at once (a long vacuum, a network cut)
   would otherwise turn their whole load on the one server that also takes the writes, and sink it too. Readers with a
   token are not counted out: nobody else may have what they wrote, and the pool bounds them;
5. where no primary is seen, replicas of unknown lag: as new as anything that is left. Not for a reader that says
   itself how far behind it may be.

Everybody else is left out. Nothing is dropped silently: each choice says why it stands where it stands, and those left
out stand at the end of the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Literal, Protocol, TypeVar

from tenfold._core.units import format_duration
from tenfold.db.position import Position
from tenfold.db.seen import Seen


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def name(self) -> str: ...

    @property
    def seen(self) -> Seen: ...

    @property
    def shown(self) -> Position | None:
        """The newest position that it is known to have shown."""
        ...

    @property
    def in_flight(self) -> int:
        """Readers that it serves now."""
        ...

    @property
    def places(self) -> int:
        """How many readers at once its adaptive limit allows."""
        ...

    @property
    def stranger(self) -> str:
        """Why it is known to be none of this cluster; "" for one that is not."""
        ...

    def latency(self, now: float) -> float:
        """Expected seconds of a reader; 0 where that is not known."""
        ...

    def usable(self, now: float) -> bool:
        """Whether its breaker lets calls pass."""
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """What a reader or writer asks for."""

    kind: Literal["read", "write"] = "read"
    after: Position | None = None
    """The state must contain all up to here."""
    max_lag: float | None = None
    """Seconds behind the primary at most; None: what the cluster was told, with hysteresis."""
    pinned: str | None = None
    """The node that this reader has been on and stays on while it may serve."""


N = TypeVar("N", bound=Candidate)
Rank = Literal["serve", "crowded", "spill", "wait", "unknown", "out"]


@dataclass(frozen=True, slots=True)
class Choice(Generic[N]):
    """A node, whether it may be used, and why it stands where it stands."""

    node: N
    rank: Rank
    """``"wait"``: only if it says that it shows the token's position. ``"out"``: not at all."""
    reason: str
    values: tuple[str | float, ...] = ()
    """What belongs into the gaps of ``reason``: the text is put together when somebody reads it."""

    @property
    def why(self) -> str:
        """Why it stands where it stands, for a person; numbers with a fraction are seconds."""
        told = [format_duration(value) if isinstance(value, float) else value for value in self.values]
        return self.reason.format(*told)

    @property
    def ok(self) -> bool:
        """Whether it may serve. With a token, replicas of any rank are asked first: what was seen of them may be of
        before a restart.
        """
        return self.rank != "out"

    def __str__(self) -> str:
        return f"{self.node.name}: {self.rank} ({self.why})"


_ALIKE = 2.0
_HIDDEN = (
    "its lag is not known, for its role may not see which timeline it follows, as is needed after a promotion: "
    "GRANT pg_read_all_stats TO it, or wait for the next restart point"
)
_ORDER: tuple[Rank, ...] = ("serve", "crowded", "wait", "spill", "unknown", "out")


def choose(
    want: Want, nodes: Sequence[N], now: float, random: Random, *, primary: str | None, spill: int | None = None
) -> list[Choice[N]]:
    """All nodes, best first; those that must not be used last.

    ``primary`` is the name of the node that was elected to take the writes, None while there is none. ``spill`` is how
    many readers at a time the primary takes over from replicas (None: any number).
    """
    if want.kind == "write":
        choices = [_writer(node, primary, now) for node in nodes]
    else:
        alone = not any(node.name != primary for node in nodes)
        choices = [_reader(want, node, now, primary, None if alone else spill) for node in nodes]
    groups: dict[Rank, list[Choice[N]]] = {rank: [] for rank in _ORDER}
    for choice in choices:
        groups[choice.rank].append(choice)
    ordered: list[Choice[N]] = []
    for rank in _ORDER:
        ordered += _drawn(groups[rank], now, random)
    return _pinned(want, ordered)


def best(nodes: Sequence[N], now: float, random: Random, *, primary: str | None, pinned: str | None = None) -> N | None:
    """The first of `choose` for a reader without further wishes where that is a replica of the first class; None:
    `choose` has to look. Without reasons, it costs a fraction.
    """
    found = []
    for node in nodes:
        seen = node.seen
        if (
            node.name == primary
            or node.stranger
            or seen.lag_state != "fresh"
            or seen.role == "primary"
            or not node.usable(now)
            or node.in_flight >= node.places
        ):
            continue
        if node.name == pinned:
            return node
        found.append(node)
    count = len(found)
    if count == 0 or pinned is not None:
        return None
    if count == 1:
        return found[0]
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    if second >= first:
        second += 1
    return found[second] if _costs_less(found[second], found[first], now) else found[first]


def _writer(node: N, primary: str | None, now: float) -> Choice[N]:
    if node.name != primary:
        if primary is None:
            return Choice(node, "out", "the primary is not known")
        return Choice(node, "out", "the primary is {}", (primary,))
    if not node.usable(now):
        return Choice(node, "out", "its breaker is open")
    return Choice(node, "serve", "the primary")


def _reader(want: Want, node: N, now: float, primary: str | None, spill: int | None) -> Choice[N]:
    if node.stranger:
        return Choice(node, "out", "{}", (node.stranger,))
    if not node.usable(now):
        return Choice(node, "out", "its breaker is open")
    if node.name == primary:
        if spill is not None and want.after is None and node.in_flight >= spill:
            taken = "the primary, and {} of {} places for readers are taken"
            return Choice(node, "out", taken, (node.in_flight, spill))
        return Choice(node, "spill", "the primary, as the last resort")
    seen = node.seen
    if seen.role == "primary":
        return Choice(node, "out", "it says that it is a primary and was not elected")
    late = too_late(want.max_lag, seen)
    if want.after is not None:
        shown = node.shown
        if seen.role == "unknown":
            return Choice(node, "out", "it is not known what it shows")
        if shown is not None and shown.system != want.after.system:
            return Choice(node, "out", "the wanted position is of another system")
        if shown is None or shown.covers(want.after) is not True:
            if late:
                return Choice(node, "out", late[0], late[1:])
            return Choice(node, "wait", "it was not seen at the wanted position, and is asked")
        late = late if want.max_lag is not None else None
    if late is None:
        if node.in_flight >= node.places:
            return Choice(node, "crowded", "{} in flight, at its limit of {}", (node.in_flight, node.places))
        latency = node.latency(now)
        each: str | float = latency or "an unknown time"
        return Choice(node, "serve", "{} in flight, {} each", (node.in_flight, each))
    if not late and primary is None and want.max_lag is None:
        what = "role" if seen.role == "unknown" else "lag"
        return Choice(node, "unknown", "its {} is not known, and no primary is seen", (what,))
    if not late:
        return Choice(node, "out", _HIDDEN if seen.hidden and primary is not None else "its lag is not known")
    return Choice(node, "out", late[0], late[1:])


def too_late(max_lag: float | None, seen: Seen) -> tuple[str, *tuple[float, ...]] | tuple[()] | None:
    """The reason and its values; None: fresh enough for ``max_lag`` (see `Want`); nothing in it: nobody knows."""
    if max_lag is None:
        if seen.lag_state == "fresh":
            return None
        if seen.lag_state == "unknown":
            return ()
        return "it is {} behind, which is too much", seen.lag or 0.0
    if seen.lag is None:
        return ()
    if seen.lag > max_lag:
        return "it is {} behind, {} were asked for", seen.lag, max_lag
    return None


def _drawn(group: list[Choice[N]], now: float, random: Random) -> list[Choice[N]]:
    if len(group) > 1:
        random.shuffle(group)
        first, second = group[0].node, group[1].node
        if _costs_less(second, first, now):
            group[0], group[1] = group[1], group[0]
    return group


def _costs_less(one: Candidate, other: Candidate, now: float) -> bool:
    latency, others = one.latency(now), other.latency(now)
    if not latency or not others:
        return one.in_flight < other.in_flight  # who is not known gets its share and no rush
    if latency <= _ALIKE * others and others <= _ALIKE * latency:
        return one.in_flight < other.in_flight
    return (one.in_flight + 1) * latency < (other.in_flight + 1) * others


def _pinned(want: Want, ordered: list[Choice[N]]) -> list[Choice[N]]:
    """A reader stays where it was, so that it never sees an older state than before."""
    for index, choice in enumerate(ordered):
        if choice.node.name == want.pinned and choice.ok:
            del ordered[index]
            return [Choice(choice.node, choice.rank, "pinned; " + choice.reason, choice.values), *ordered]
    return ordered
