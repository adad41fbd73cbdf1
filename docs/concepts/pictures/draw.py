"""The pictures of `choosing-a-policy.md`: each policy in one and the same simulated scenario, as a small SVG.

    python docs/concepts/pictures/draw.py               # all of them, and the table of the page
    python docs/concepts/pictures/draw.py p2c sticky    # these

Each row is a server. On the left is how many requests a second it was sent, on the right how many were under way there,
all clients together, on the scale of its square root, so that 1 and 40 are both to be seen. The scales are the same in
all pictures; what goes beyond is cut off at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tenfold.balance import ANY, Member, Pick, Reason, Request, Sticky
from tenfold.simulate import PickFactory, Place, PolicyResult, load, simulate
from tenfold.simulate.policies import factory
from tenfold.simulate.scenario import label_of

HERE: Final = Path(__file__).parent
SCENARIO: Final = load(HERE / "scenario.toml")
SERVERS: Final = [id for group in SCENARIO.servers for id in group.ids()]
SECONDS: Final = 30
BINS: Final = 60
MOST_RATE: Final = 200.0
MOST_OPEN: Final = 40.0
LEFT, RIGHT, PANEL, ROW, TOP = 120, 396, 240, 22, 62
MARKS: Final = {"web-3": (5, 12), "web-1": (18, 24), "web-2": (18, 24)}
NOTES: Final = {"web-0": "twice as large", "web-1": "leaves", "web-2": "leaves", "web-3": "5 × slower"}
STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#3d444d}.t{font-size:14px;font-weight:600}.a{text-anchor:middle}"
    ".c{fill:#fff}.m{fill:#d4721f;fill-opacity:.16}.r{fill:#2f72c4}.o{fill:#b3471d}.l{stroke:#c9ced6}"
    "@media(prefers-color-scheme:dark){text{fill:#c4ccd6}.c{fill:#12161c}.m{fill-opacity:.24}.r{fill:#5c9ff0}"
    ".o{fill:#ee8650}.l{stroke:#3a424d}}"
)


class Book:
    """What happened at each server in each piece of time, all clients together."""

    def __init__(self) -> None:
        self.sent = {id: [0] * BINS for id in SERVERS}
        self.area = {id: [0.0] * BINS for id in SERVERS}
        self._open = dict.fromkeys(SERVERS, 0)
        self._since = dict.fromkeys(SERVERS, 0.0)

    def change(self, id: str, now: float, by: int) -> None:
        """So many more are under way there from ``now`` on."""
        width, begin = SECONDS / BINS, self._since[id]
        while begin < now and int(begin / width) < BINS:
            place = int(begin / width)
            end = min(now, (place + 1) * width)
            self.area[id][place] += (end - begin) * self._open[id] / width
            begin = end if end > begin else now
        self._since[id] = now
        self._open[id] += by
        if by > 0 and now < SECONDS:
            self.sent[id][int(now / width)] += 1


class Watched(Pick):
    """A pick with a book beside it."""

    name = "watched"

    def __init__(self, inner: Pick, book: Book) -> None:
        self.inner, self.book = inner, book

    def declare(self, members: Sequence[Member]) -> None:
        self.inner.declare(members)

    def rebuild(self, members: Sequence[Member]) -> None:
        self.members = members
        self.inner.rebuild(members)

    def order(self, now: float, draw: object, request: Request = ANY) -> Iterator[Member]:
        return self.inner.order(now, draw, request)  # type: ignore[arg-type]

    def started(self, member: Member, now: float) -> None:
        self.book.change(member.id, now, 1)
        self.inner.started(member, now)

    def finished(self, member: Member, now: float, elapsed: float, ok: bool | None) -> None:
        self.book.change(member.id, now, -1)
        self.inner.finished(member, now, elapsed, ok)

    def explain(self, now: float, request: Request = ANY) -> list[Reason]:
        return self.inner.explain(now, request)


class Browsers(Sticky):
    """Sticky, with browsers that keep the cookie they are given: the simulator has keys, but no cookies."""

    def __init__(self, jar: dict[str, str]) -> None:
        super().__init__(secret="a secret for pictures, not for use")
        self.jar = jar

    def order(self, now: float, draw: object, request: Request = ANY) -> Iterator[Member]:
        told = Request(key=request.key, cookie=self.jar.get(request.key, ""))
        for member in super().order(now, draw, told):  # type: ignore[arg-type]
            self.jar[request.key] = self.cookie(member.id)
            yield member


def policies() -> dict[str, PickFactory]:
    """What is drawn, by label."""
    found = {label_of(spec): factory(spec) for spec in SCENARIO.policies}
    jar: dict[str, str] = {}

    def sticky(place: Place) -> Pick:
        return Browsers(jar)

    return {**found, "sticky": sticky}


def run(label: str) -> tuple[PolicyResult, Book]:
    """The scenario under one policy."""
    make, book = policies()[label], Book()
    result = simulate(SCENARIO, {label: lambda place: Watched(make(place), book)})
    return result.policies[0], book


def draw(result: PolicyResult, book: Book) -> str:
    """The picture."""
    rate = BINS / SECONDS
    bottom = TOP + ROW * len(SERVERS)
    width, height = RIGHT + PANEL + 14, bottom + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{result.policy}: requests a second and requests under way at ten servers">',
        f'<style>{STYLE}</style><rect class="c" width="{width}" height="{height}" rx="6"/>',
        f'<text class="t" x="12" y="22">{result.policy}</text>',
        f'<text x="{LEFT + 60}" y="22">{figures(result)}</text>',
        f'<text x="{LEFT}" y="48">requests a second (row: 0 to {MOST_RATE:g})</text>',
        f'<text x="{RIGHT}" y="48">under way (row: 0 to {MOST_OPEN:g}, square root)</text>',
    ]
    for place, id in enumerate(SERVERS):
        base = TOP + ROW * (place + 1) - 3
        note = f' <tspan font-size="9">{NOTES[id]}</tspan>' if id in NOTES else ""
        parts.append(f'<text x="12" y="{base - 4}">{id}{note}</text>')
        sent = [count * rate / MOST_RATE for count in book.sent[id]]
        held = [(mean / MOST_OPEN) ** 0.5 for mean in book.area[id]]
        for kind, left, heights in (("r", LEFT, sent), ("o", RIGHT, held)):
            if id in MARKS:
                begin, end = (second * PANEL // SECONDS for second in MARKS[id])
                box = f'x="{left + begin}" y="{base - ROW + 3}" width="{end - begin}" height="{ROW - 3}"'
                parts.append(f'<rect class="m" {box}/>')
            parts.append(_steps(kind, left, base, heights))
            parts.append(f'<path class="l" d="M{left} {base + 0.5}h{PANEL}"/>')
    for second in range(0, SECONDS + 1, 10):
        for left in (LEFT, RIGHT):
            x = left + second * PANEL // SECONDS
            parts.append(f'<text class="a" x="{x}" y="{bottom + 16}">{second} s</text>')
    return "\n".join([*parts, "</svg>\n"])


def _steps(kind: str, left: int, base: int, parts: Sequence[float]) -> str:
    """An area made of steps; ``parts`` of the row's height."""
    step, high = PANEL // BINS, ROW - 4
    heights = [round(min(1.0, part) * high) for part in parts]
    path, before = f"M{left} {base}", 0
    for height in heights:
        if height != before:
            path += f"v{before - height}"
        path += f"h{step}"
        before = height
    return f'<path class="{kind}" d="{path}V{base}z"/>'


def figures(result: PolicyResult) -> str:
    """The line above the picture."""
    latency = result.latency
    return f"p50 {_ms(latency.p50)} · p99 {_ms(latency.p99)} · failed {_share(result)} · tried again {result.retries:,}"


def row(result: PolicyResult) -> str:
    """The line of the page's table."""
    latency = result.latency
    cells = (
        f"`{result.policy}`", _ms(latency.p50), _ms(latency.p99), _share(result), f"{result.retries:,}",
        f"{result.max_in_flight}", f"{result.cross_zone:.0%}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.1f} ms" if seconds < 0.0995 else f"{seconds * 1e3:.0f} ms"


def _share(result: PolicyResult) -> str:
    return "0" if not result.error_share else f"{result.error_share:.2%}"


def main(labels: Sequence[str]) -> None:
    """Draw these, or all."""
    for label in labels or policies():
        result, book = run(label)
        (HERE / f"{label}.svg").write_text(draw(result, book), encoding="utf-8")
        print(row(result), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
