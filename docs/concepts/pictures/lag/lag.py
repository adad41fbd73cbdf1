"""The picture of `lag.md`: three measures of one replica's lag, on real servers, while five things happen to it.

python docs/concepts/pictures/lag/lag.py        # draws lag.svg and says what was seen; takes 25 s
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import asyncpg

from tenfold.db import AsyncCluster, create_async_cluster
from tenfold.servers import Postgres, Topology

HERE: Final = Path(__file__).parent
SECONDS, EVERY = 20, 0.05
PHASES: Final = (
    (0, "written to"),
    (4, "nobody writes"),
    (8, "replay paused"),
    (12, "cut off"),
    (16, "primary killed"),
)
RESUMED: Final = 11
LEFT, WIDTH, ROW, TOP, GAP = 20, 600, 64, 62, 30
ROWS: Final = (
    ("clock", "now() − pg_last_xact_replay_timestamp()", 8.0, "s"),
    ("bytes", "received − replayed", 100_000.0, "bytes"),
    ("lag", "tenfold: by the primary's record; readers where it is blue", 8.0, "s"),
)
ASKED: Final = (
    "SELECT extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 AS clock, "
    "(pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn())::float8 AS bytes"
)
STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#3d444d}.a{text-anchor:middle}.e{text-anchor:end}.c{fill:#fff}"
    ".m{fill:#8a94a3;fill-opacity:.10}.fresh{fill:#2f72c4}.stale{fill:#d4721f}.unknown{fill:#8a94a3;fill-opacity:.35}"
    ".plain{fill:#6b7480}.l{stroke:#c9ced6}"
    "@media(prefers-color-scheme:dark){text{fill:#c4ccd6}.c{fill:#12161c}.fresh{fill:#5c9ff0}.stale{fill:#ee8650}"
    ".plain{fill:#98a2b0}.l{stroke:#3a424d}}"
)
Sample = dict[str, Any]


async def look(cluster: AsyncCluster, replica: Postgres, began: float) -> list[Sample]:
    """All three measures, every 50 ms."""
    asked = await asyncpg.connect(replica.url)
    samples = []
    try:
        while (at := time.monotonic() - began) < SECONDS:
            row, seen = await asked.fetchrow(ASKED), cluster.nodes()[1].seen
            samples.append({"at": at, **row, "lag": seen.lag, "state": seen.lag_state})
            await asyncio.sleep(EVERY)
    finally:
        await asked.close()
    return samples


async def write(primary: Postgres) -> None:
    """A row every 20 ms, until the primary is gone or this is cancelled."""
    connection = await asyncpg.connect(primary.url)
    try:
        while True:
            await connection.execute("INSERT INTO written SELECT generate_series(1, 10)")
            await asyncio.sleep(0.02)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        return
    finally:
        connection.terminate()


async def story() -> list[Sample]:
    """What happens, and what was seen meanwhile."""
    async with Topology(replicas=1, shards=0, valkey=False) as servers:
        primary, replica = servers.primary, servers.replicas[0]
        async with create_async_cluster(primary.url, [replica.url], max_lag="500ms", watch_period="50ms") as cluster:
            async with cluster.begin() as connection:
                await connection.exec_driver_sql("CREATE TABLE written (id int)")
            await replica.caught_up()
            began = time.monotonic()

            async def until(second: float) -> None:
                await asyncio.sleep(began + second - time.monotonic())

            looking = asyncio.create_task(look(cluster, replica, began))
            writing = asyncio.create_task(write(primary))
            await until(4)
            writing.cancel()
            await until(8)
            await replica.pause_replay()
            writing = asyncio.create_task(write(primary))
            await until(RESUMED)
            await replica.resume_replay()
            await until(12)
            await replica.fetchval("ALTER SYSTEM SET primary_conninfo = ''")
            await replica.fetchval("SELECT pg_reload_conf()")
            await until(16)
            await primary.kill()
            await writing
            return await looking


def draw(samples: list[Sample]) -> str:
    """The picture."""
    height = TOP + len(ROWS) * (ROW + GAP) + 8
    width = LEFT + WIDTH + 20
    scale = WIDTH / SECONDS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Three measures of the lag of one replica over twenty seconds">',
        f'<style>{STYLE}</style><rect class="c" width="{width}" height="{height}" rx="6"/>',
    ]
    ends = [*[begin for begin, _ in PHASES[1:]], SECONDS]
    for number, ((begin, what), end) in enumerate(zip(PHASES, ends, strict=True)):
        x = LEFT + begin * scale
        if number % 2:
            parts.append(f'<rect class="m" x="{x:g}" y="30" width="{(end - begin) * scale:g}" height="{height - 42}"/>')
        parts.append(f'<text class="a" x="{x + (end - begin) * scale / 2:g}" y="22">{what}</text>')
    for place, (key, title, most, unit) in enumerate(ROWS):
        base = TOP + place * (ROW + GAP) + ROW
        parts.append(f'<text x="{LEFT}" y="{base - ROW - 6}">{title}</text>')
        parts.append(f'<text class="e" x="{LEFT + WIDTH}" y="{base - ROW - 6}">0 to {most:,g} {unit}</text>')
        for state, run in groupby(
            zip(samples, [*samples[1:], {"at": SECONDS}], strict=True),
            lambda pair, own=key == "lag": pair[0]["state"] if own else "plain",
        ):
            parts.append(_steps(state, base, [_step(one[key], most, one["at"], after["at"]) for one, after in run]))
        parts.append(f'<path class="l" d="M{LEFT} {base + 0.5}h{WIDTH}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _step(value: float | None, most: float, begin: float, end: float) -> tuple[float, float, float]:
    """Where it begins and ends, and how high it is. What is not known fills the row."""
    high = ROW if value is None else max(1.0, min(1.0, value / most) * ROW)
    scale = WIDTH / SECONDS
    return LEFT + begin * scale, LEFT + end * scale, high


def _steps(state: str, base: int, steps: list[tuple[float, float, float]]) -> str:
    """An area made of steps."""
    path = f"M{steps[0][0]:.0f} {base}"
    last = None
    for _, end, high in steps:
        level = f"V{base - high:.0f}"
        path += f"{level if level != last else ''}H{end:.0f}"
        last = level
    return f'<path class="{state}" d="{path}V{base}z"/>'


def told(samples: list[Sample]) -> str:
    """The largest of each measure in each phase, and the states, for the page."""
    lines = []
    ends = [*[begin for begin, _ in PHASES[1:]], SECONDS]
    for (begin, what), end in zip(PHASES, ends, strict=True):
        part = [one for one in samples if begin + 0.2 <= one["at"] < end - 0.1]
        largest = {key: max((one[key] for one in part if one[key] is not None), default=None) for key, *_ in ROWS}
        states = " ".join(
            f"{s} {sum(one['state'] == s for one in part) / len(part):.0%}" for s in ("fresh", "stale", "unknown")
        )
        lines.append(f"{what:16} {largest} {states}")
    return "\n".join(lines)


if __name__ == "__main__":
    found = asyncio.run(story())
    (HERE / "lag.svg").write_text(draw(found), encoding="utf-8")
    sys.stderr.write(told(found) + "\n")
