"""``tenfold blackfriday``: the whole proof on the reference shop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from blackfriday.acts import Plan
    from blackfriday.story import Story
    from blackfriday.view import View


def blackfriday(
    *,
    quick: Annotated[bool, Parameter(negative="")] = False,
    out: Path = Path(),
    seed: int = 1,
) -> None:
    """Boot PostgreSQL and Valkey, break a plainly written shop, fix it rung by rung, prove ten times the traffic.

    Writes report.html and report.json, also when it is interrupted. Exit code 0 only if every promise that was measured
    is kept; 1 if one is broken; 2 if the proof could not be made; 130 on SIGINT.

    Parameters
    ----------
    quick
        Two minutes instead of eight: the breakpoint of the baseline only, the other rungs at one fixed rate.
    out
        Folder for report.html and report.json.
    seed
        Of arrivals, choices and data. The catalogue is the same for every seed.
    """
    from blackfriday.acts import FULL, QUICK, blank
    from blackfriday.report import folder, write
    from blackfriday.view import Console

    folder(out)  # before minutes of work whose result it could not take
    plan = QUICK if quick else FULL
    story = blank(plan, seed)
    view = Console()
    try:
        code = asyncio.run(_interruptible(story, plan, view))
    finally:
        view.promises(story)
        if story.stopped_because:
            view.say(f"  The story stops here: {story.stopped_because}")
        for path in write(story, out):
            view.say(f"  wrote {path}")
    sys.exit(code or (0 if story.kept else 1))


async def _interruptible(story: Story, plan: Plan, view: View) -> int:
    """Play it; 0 when it ended, 130 or 143 when a signal ended it. Everything it started is gone either way."""
    from blackfriday.acts import tell

    loop = asyncio.get_running_loop()
    telling = asyncio.ensure_future(tell(story, plan, view))
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        telling.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await telling
    except asyncio.CancelledError:
        if not caught:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return 128 + caught[0] if caught else 0
