"""Does a history of reads and appends look as if the database kept its promises? A checker for list-append histories.

Theory. After Adya, "Weak Consistency" (1999), and Kingsbury and Alvaro, "Elle" (VLDB 2020). Transactions append values,
each used once, to lists, and read whole lists. What a list shows *is* the order in which its versions were written, so
the dependencies between transactions need no guessing: ``ww`` (the next append to the same list), ``wr`` (a read that
ends with your append), ``rw`` (the next append after what you read). A cycle of them is an anomaly, and its edges say
which: writes alone are G0, with reads of them G1c; one ``rw`` is G-single (a lost update, or a read from two times);
several are G2, which snapshot isolation allows (write skew).

A session adds ``so``, from each transaction of a client to its next one. A cycle that needs it breaks a session
guarantee (Terry et al. 1994): what the client wrote or saw is not there in its later read, be it of the same list or of
another one that depends on it. The two that concern one list are told by their own names.

A transaction whose outcome nobody knows may show or not; one that failed must not show (G1a).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Literal

Key = str | int
Outcome = Literal["committed", "failed", "unknown"]
Edge = Literal["ww", "wr", "rw", "so"]
_AddEdge = Callable[[int | None, int | None, Edge], None]
Kind = Literal[
    "internal", "duplicate", "order", "phantom", "G1a", "G1b", "read-your-writes", "monotonic-reads", "lost",
    "G0", "G1c", "G-single", "session", "G2",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Append:
    """``value`` was put at the end of the list ``key``. No value is appended twice to the same list."""

    key: Key
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    """The list ``key`` was ``values``, oldest first."""

    key: Key
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """What one transaction of ``client`` did, in order. A client's transactions follow one another in the history."""

    client: Key
    operations: tuple[Append | Read, ...]
    outcome: Outcome = "committed"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What was found: its ``kind``, the numbers in the history of the ``transactions`` it concerns, and in words."""

    kind: Kind
    transactions: tuple[int, ...]
    told: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.told} (transactions {', '.join(map(str, self.transactions))})"


def check(history: Sequence[Transaction], final: Mapping[Key, Sequence[int]] | None = None) -> list[Anomaly]:
    """Every anomaly of single reads, and of each kind of cycle the first that is found; empty if there is none.

    ``final`` are the lists as they are at the end, when all is quiet: with it a committed append that is in none of
    them is ``"lost"``.
    """
    work = _Work(history)
    for number, transaction in enumerate(history):
        work.look_within(number, transaction)
    for key, values in (final or {}).items():
        work.look_at(len(history), Read(key, tuple(values)))
    work.look_at_sessions()
    if final is not None:
        work.look_for_lost(final)
    work.look_for_cycles()
    return work.found


@dataclass(slots=True)
class _Work:
    history: Sequence[Transaction]
    found: list[Anomaly] = field(default_factory=list)
    writer: dict[tuple[Key, int], int] = field(default_factory=dict)
    last: dict[tuple[Key, int], int] = field(default_factory=dict)
    """By list and transaction: the last value that it appended there."""
    longest: dict[Key, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, transaction in enumerate(self.history):
            for operation in transaction.operations:
                if isinstance(operation, Append):
                    at = (operation.key, operation.value)
                    if at in self.writer:
                        self._tell("duplicate", (self.writer[at], number), f"{at} is appended by both")
                    self.writer[at] = number
                    self.last[operation.key, number] = operation.value

    def _tell(self, kind: Kind, transactions: Iterable[int], told: str) -> None:
        self.found.append(Anomaly(kind, tuple(transactions), told))

    # -- single reads

    def look_within(self, number: int, transaction: Transaction) -> None:
        """Each read against what the transaction itself did before, and against who wrote what it shows."""
        if transaction.outcome == "failed":
            return
        own: dict[Key, list[int]] = defaultdict(list)
        known: dict[Key, tuple[int, ...]] = {}
        for operation in transaction.operations:
            if isinstance(operation, Append):
                own[operation.key].append(operation.value)
                continue
            key, values = operation.key, operation.values
            mine = tuple(own[key])
            if mine and values[-len(mine) :] != mine:
                self._tell("internal", (number,), f"{key!r} should end with its own {mine}, and is {_short(values)}")
            elif key in known and values[: len(values) - len(mine)] != known[key]:
                self._tell("internal", (number,), f"{key!r} was {_short(known[key])} before, and is {_short(values)}")
            known[key] = values[: len(values) - len(mine)]
            self.look_at(number, operation)

    def look_at(self, number: int, read: Read) -> None:
        """A read against the writers, and against what others read."""
        key, values = read.key, read.values
        if len(set(values)) != len(values):
            self._tell("duplicate", (number,), f"{key!r} has a value twice: {_short(values)}")
            return
        for value in values:
            writer = self.writer.get((key, value))
            if writer is None:
                self._tell("phantom", (number,), f"{key!r} shows {value}, which nobody appended")
            elif self.history[writer].outcome == "failed":
                self._tell("G1a", (writer, number), f"{key!r} shows {value} of a transaction that failed")
        if values:
            writer = self.writer.get((key, values[-1]))
            if writer is not None and writer != number and self.last[key, writer] != values[-1]:
                self._tell("G1b", (writer, number), f"{key!r} ends with {values[-1]}, in the middle of a transaction")
        known = self.longest.get(key, ())
        shorter, longer = sorted((known, values), key=len)
        if longer[: len(shorter)] != shorter:
            self._tell("order", (number,), f"{key!r} was {_short(known)} to somebody, and is {_short(values)}")
        self.longest[key] = longer

    # -- sessions

    def look_at_sessions(self) -> None:
        """What a client wrote and saw, list by list, must be in its later reads."""
        wrote: dict[tuple[Key, Key], list[tuple[int, int]]] = defaultdict(list)
        saw: dict[tuple[Key, Key], tuple[int, tuple[int, ...]]] = {}
        for number, transaction in enumerate(self.history):
            if transaction.outcome != "committed":
                continue
            for operation in transaction.operations:
                at = (transaction.client, operation.key)
                if isinstance(operation, Append):
                    continue
                shown = set(operation.values)
                for writer, value in wrote[at]:
                    if value not in shown:
                        told = f"client {at[0]!r} does not see its own {value} in {at[1]!r}: {_short(operation.values)}"
                        self._tell("read-your-writes", (writer, number), told)
                before = saw.get(at)
                if before is not None and len(operation.values) < len(before[1]):
                    told = f"client {at[0]!r} saw {len(before[1])} in {at[1]!r}, and then {len(operation.values)}"
                    self._tell("monotonic-reads", (before[0], number), told)
                saw[at] = (number, operation.values)
            for operation in transaction.operations:
                if isinstance(operation, Append):
                    wrote[transaction.client, operation.key].append((number, operation.value))

    def look_for_lost(self, final: Mapping[Key, Sequence[int]]) -> None:
        """Committed appends that are nowhere at the end."""
        for (key, value), writer in self.writer.items():
            if self.history[writer].outcome == "committed" and value not in final.get(key, ()):
                self._tell("lost", (writer,), f"{value} was appended to {key!r} and acknowledged, and is not there")

    # -- cycles

    def look_for_cycles(self) -> None:
        """From the gravest kind to the mildest; a graph that contains a graver one is not asked for a milder."""
        edges = self._edges()
        circles: tuple[tuple[Kind, set[Edge]], ...] = (("G0", {"ww"}), ("G1c", {"ww", "wr"}))
        for kind, allowed in circles:
            cycle = _cycle(edges, allowed)
            if cycle:
                self._tell(kind, cycle, "they depend on each other in a circle")
                return
        core = _core(edges)
        one_step = [(one, two) for one, after in core.items() for two, how in after.items() if "rw" in how]
        ways: tuple[tuple[Kind, set[Edge]], ...] = (("G-single", {"ww", "wr"}), ("session", {"ww", "wr", "so"}))
        for kind, way in ways:
            for reader, writer in one_step:
                path = _path(core, writer, reader, way)
                if path:
                    self._tell(kind, path, f"{reader} did not see {writer}, which came before it")
                    return
        cycle = _cycle(core, {"ww", "wr", "rw"})
        if cycle:
            self._tell("G2", cycle, "each did not see what another of them wrote")

    def _edges(self) -> dict[int, dict[int, set[Edge]]]:
        edges: dict[int, dict[int, set[Edge]]] = defaultdict(lambda: defaultdict(set))

        def edge(one: int | None, two: int | None, how: Edge) -> None:
            if one is not None and two is not None and one != two:
                edges[one][two].add(how)

        place = {(key, value): n for key, values in self.longest.items() for n, value in enumerate(values)}
        for key, values in self.longest.items():
            writers = [self.writer.get((key, value)) for value in values]
            for one, two in pairwise(writers):
                edge(one, two, "ww")
        latest: dict[Key, int] = {}
        for number, transaction in enumerate(self.history):
            if transaction.outcome == "failed":
                continue
            for operation in transaction.operations:
                if isinstance(operation, Read):
                    self._of_read(number, operation, place, edge)
            if transaction.outcome == "committed":
                edge(latest.get(transaction.client), number, "so")
                latest[transaction.client] = number
        return edges

    def _of_read(self, number: int, read: Read, place: dict[tuple[Key, int], int], edge: _AddEdge) -> None:
        key, order = read.key, self.longest.get(read.key, ())
        others = [value for value in read.values if self.writer.get((key, value)) != number]
        if others:
            edge(self.writer.get((key, others[-1])), number, "wr")
        after = place.get((key, read.values[-1]), -1) + 1 if read.values else 0
        following = (self.writer.get((key, value)) for value in order[after:])
        edge(number, next((writer for writer in following if writer != number), None), "rw")


def _cycle(edges: Mapping[int, Mapping[int, set[Edge]]], allowed: set[Edge]) -> tuple[int, ...]:
    graph = {one: [two for two, how in after.items() if how & allowed] for one, after in edges.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def _core(edges: Mapping[int, Mapping[int, set[Edge]]]) -> dict[int, dict[int, set[Edge]]]:
    """What is left when whoever has nobody before or nobody behind is taken away, again and again: all cycles."""
    after = {one: set(twos) for one, twos in edges.items()}
    before: dict[int, set[int]] = defaultdict(set)
    for one, twos in after.items():
        for two in twos:
            before[two].add(one)
    nodes = set(after) | set(before)
    for here, there in ((after, before), (before, after)):
        ends = deque(node for node in nodes if not here.get(node))
        while ends:
            node = ends.popleft()
            if node not in nodes:
                continue
            nodes.discard(node)
            for other in there.get(node, set()):
                here[other].discard(node)
                if not here[other] and other in nodes:
                    ends.append(other)
    return {one: {two: how for two, how in edges[one].items() if two in nodes} for one in nodes if one in edges}


def _path(graph: Mapping[int, Mapping[int, set[Edge]]], start: int, end: int, allowed: set[Edge]) -> tuple[int, ...]:
    came: dict[int, int] = {start: start}
    ways = deque([start])
    while ways:
        here = ways.popleft()
        if here == end:
            path = [end]
            while path[-1] != start:
                path.append(came[path[-1]])
            return tuple(reversed(path))
        for two, how in graph.get(here, {}).items():
            if how & allowed and two not in came:
                came[two] = here
                ways.append(two)
    return ()


def _short(values: Sequence[int]) -> str:
    return str(list(values)) if len(values) <= 8 else f"[… {', '.join(map(str, values[-8:]))}], {len(values)} in all"
