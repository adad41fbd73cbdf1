"""Four processes share a limit while its Valkey is killed or frozen in the middle: they go on as they were told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from tenfold.servers import Valkey

CHILD = """
import asyncio, json, sys, time
from tenfold.resilience.distributed import SharedMeter
from tenfold.resilience.errors import RateLimited
from tenfold.resilience.ratelimit import RateLimit

options = json.loads(sys.argv[2])
limit = RateLimit(200, burst=40, store=sys.argv[1], store_timeout="300ms", lease=10, **options)
meter = SharedMeter(limit, name="shop")
found = {"admitted": 0, "refused": 0, "down": 0}
longest = 0.0

async def ask():
    global longest
    began = time.monotonic()
    try:
        await meter.admit_async(began)
        found["admitted"] += 1
    except RateLimited as refusal:
        found["down" if "does not answer" in str(refusal) else "refused"] += 1
    longest = max(longest, time.monotonic() - began)

async def spell(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.gather(*(ask() for _ in range(5)))
        await asyncio.sleep(0.005)

async def main():
    for name in ("before", "after"):
        sys.stdin.readline()
        for kind in found:
            found[kind] = 0
        began = time.monotonic()
        await spell(1.0)
        print(json.dumps({**found, "seconds": time.monotonic() - began}), flush=True)
    await meter.aclose()
    print(json.dumps({**meter.state(), "longest": longest}), flush=True)

asyncio.run(main())
"""

MODES: dict[str, dict[str, Any]] = {
    "open": {"on_store_error": "open"},
    "closed": {"on_store_error": "closed"},
    "local": {"on_store_error": "local", "local_share": "25%"},
}


@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize("mode", MODES)
async def test_the_store_goes_away_in_the_middle(mode: str, how: str) -> None:
    async with Valkey() as valkey:
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, valkey.url, json.dumps({**MODES[mode], "store_pause": "1m"})),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(4)
        ]

        async def round_of() -> list[Any]:
            for child in children:
                assert child.stdin is not None
                child.stdin.write(b"go\n")
            return [await line(child) for child in children]

        try:
            async with asyncio.timeout(30):
                before = await round_of()
                await getattr(valkey, how)()
                after = await round_of()
                ends = [await line(child) for child in children]
                assert [await child.wait() for child in children] == [0] * 4
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
    spell = max(each["seconds"] for each in before) + 1.0  # they do not begin at the same moment
    assert 0 < sum(each["admitted"] for each in before) <= 40 + 200 * spell + 4 * 10
    assert sum(each["down"] for each in before) == 0
    assert max(each["longest"] for each in ends) < 1.0, "a call waited for more than its time-out"
    for each, end in zip(after, ends, strict=True):
        assert end["store_up"] is False
        if mode == "open":
            assert each["admitted"] > 200
            assert each["refused"] <= 5 * 2  # such as were refused before the store went away
        elif mode == "closed":
            assert each["admitted"] <= 10  # what was leased
            assert each["down"] > 200
        else:
            assert 10 <= each["admitted"] <= 10 + 50 * (each["seconds"] + 0.1) + 10
            assert each["down"] == 0


async def line(child: asyncio.subprocess.Process) -> Any:
    assert child.stdout is not None
    return json.loads(await child.stdout.readline())
