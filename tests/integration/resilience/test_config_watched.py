"""A file changed under a running service, in real time: by another process, as an operator's tool does it."""

import asyncio
import subprocess
import sys

import pytest

from tenfold._core.events import Hub
from tenfold.resilience.config import load_policies
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded
from tenfold.resilience.errors import DeadlineExceeded
from tenfold.resilience.registry import Registry

MOVE = """
import os, sys
path, text = sys.argv[1:]
with open(path + ".new", "w") as file:
    file.write(text); file.flush(); os.fsync(file.fileno())
os.replace(path + ".new", path)
"""


def rewrite(path, text):
    subprocess.run([sys.executable, "-c", MOVE, str(path), text], check=True, timeout=30)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_calls_under_way_and_calls_to_come(tmp_path, loop):
    path = tmp_path / "policies.toml"
    path.write_text('[policy.search]\ndeadline = "30s"\n', encoding="utf-8")
    factory = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def main():
        told = asyncio.Queue()
        running = asyncio.get_running_loop()
        hub = Hub()
        for kind in (ConfigReloaded, ConfigRejected):
            hub.subscribe(kind, lambda event: running.call_soon_threadsafe(told.put_nowait, event))
        policies = load_policies(path, registry=Registry(), hub=hub)
        release = asyncio.Event()

        @policies["search"]
        async def find(how):
            await (release.wait() if how == "released" else asyncio.sleep(30))
            return how

        async with policies.watching("20ms"), asyncio.timeout(30):
            under_way = asyncio.ensure_future(find("released"))
            await asyncio.to_thread(rewrite, path, '[policy.search]\ndeadline = "50ms"\n')
            event = await told.get()
            assert event.changes == ("search.deadline: '30s' -> '50ms'",)
            with pytest.raises(DeadlineExceeded):
                await find("slow")
            release.set()
            assert await under_way == "released"  # by the deadline it started with

            await asyncio.to_thread(rewrite, path, '[policy.search]\ndeadline = "50 ms later"\n')
            event = await told.get()
            assert event.problems[0].startswith(f"{path}: [policy.search] deadline: expected a duration")
            with pytest.raises(DeadlineExceeded):
                await find("slow")

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
