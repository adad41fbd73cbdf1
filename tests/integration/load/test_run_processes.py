"""Whole runs with real child processes: merging, dying, stopping, refusing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load import (
    Constant,
    LoadError,
    Objective,
    Poisson,
    Progress,
    RunOptions,
    SearchOptions,
    Snapshot,
    TargetDownError,
    WorkerError,
    find_breakpoint,
    load_scenario,
    run,
    verdict,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ONE = """
    @journey
    async def one(user):
        with step("one"):
            await user.get("/")
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children_of(pid: int) -> list[int]:
    """On Linux; none elsewhere."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


async def test_two_processes_share_the_schedule_and_the_seed_decides(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    path = scenario_file(
        server.url,
        """
        number = feed.cycle([1, 2, 3])
        draw = feed.uniform(1, 10**9)
        @journey(weight=3)
        async def often(user):
            with step("often"):
                await user.get(f"/often/{draw()}")
        @journey(weight=1)
        async def seldom(user):
            print("said aloud")
            with step("seldom"):
                await user.get(f"/seldom/{user.random.random()}")
        """,
    )
    seen: list[Progress] = []
    paths = []
    for _ in range(2):
        server.heads.clear()
        result = await run(
            load_scenario(path),
            Poisson(200, 1.5),
            warmup=0.5,
            processes=2,
            seed=5,
            objectives=[Objective(p95="1s", errors="0.1%", min_samples=10)],
            on_progress=seen.append,
        )
        paths.append(sorted(head.split(b" ")[1] for head in server.heads))
        assert result.complete
        assert (
            result.started
            == result.planned
            == len(server.heads)
            == result.totals.attempts + (result.warmup_totals.attempts)
        )
        assert len(result.clients) == 2
        assert min(client.requests for client in result.clients) > 100
        assert sum(client.requests for client in result.clients) == result.planned
        assert {step.name for step in result.steps} == {"often", "seldom"}
        assert sum(each.intended for each in result.intervals) == result.planned
        assert all(line.passed for line in result.objectives)
        assert any("said aloud" in note for note in result.notes)
        assert not any(alive(client.pid) for client in result.clients)
    assert paths[0] == paths[1]
    share = result.named("often").attempts / result.totals.attempts
    assert 0.6 < share < 0.9
    assert seen[-1].sent == result.planned
    assert seen[-1].planned == 1.5
    assert len(seen) >= 8
    assert result.from_json(result.to_json()) == result


async def test_a_dead_target_is_one_sentence_before_the_start(scenario_file: Any, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    began = monotonic()
    with pytest.raises(TargetDownError, match=f"nothing listens at {url} .*start the service first"):
        await run(load_scenario(scenario_file(url, ONE)), Constant(10, 1))
    assert monotonic() - began < 10


async def test_a_target_that_dies_leaves_a_full_result(serve: Any, scenario_file: Any) -> None:
    served = 0

    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal served
        served += 1
        if served > 20:
            writer.transport.abort()
            return False
        writer.write(OK)
        return True

    server = await serve(handle)
    result = await run(load_scenario(scenario_file(server.url, ONE)), Constant(100, 1), seed=1)
    assert result.complete
    assert result.totals.attempts == 100
    assert result.totals.failures == 80
    assert set(result.totals.errors) <= {"reset", "closed"}


async def test_a_target_that_never_answers_ends_in_time(serve: Any, scenario_file: Any) -> None:
    async def handle(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> bool:
        await reader.read()
        return False

    server = await serve(handle)
    began = monotonic()
    result = await run(
        load_scenario(scenario_file(server.url, ONE)),
        Constant(50, 1),
        objectives=[Objective(p95=1.0)],
        options=RunOptions(timeout="300ms"),
    )
    assert monotonic() - began < 8
    assert result.totals.errors == {"timeout": 50}
    assert [line.passed for line in result.objectives] == [False]


async def test_a_process_that_is_killed_leaves_a_partial_result(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    path = scenario_file(
        server.url,
        """
        import os, sys
        @journey
        async def one(user):
            with step("one"):
                answer = await user.get("/")
            if user._index == 60:
                print("about to die", file=sys.stderr, flush=True)
                os.kill(os.getpid(), 9)
        """,
    )
    began = monotonic()
    result = await run(load_scenario(path), Constant(50, 20), processes=2, seed=1)
    assert monotonic() - began < 12
    assert not result.complete
    assert "killed by signal 9" in result.stopped_because
    assert "about to die" in result.stopped_because
    assert 40 < result.totals.attempts < 200
    assert verdict(result).exit_code == 2
    assert "partial" in result.invalid[0]


async def test_stop_early_ends_the_run_with_its_reason(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))

    def enough(seen: Snapshot) -> str | None:
        return "enough" if seen.result.totals.attempts >= 30 and seen.most_samples == 1 else None

    began = monotonic()
    result = await run(load_scenario(scenario_file(server.url, ONE)), Constant(100, 20), stop_early=enough)
    assert monotonic() - began < 6
    assert (result.complete, result.stopped_because) == (False, "enough")
    assert result.totals.errors == {}


async def test_cancelling_leaves_no_process(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    others = set(children_of(os.getpid()))  # servers that other tests keep
    started = asyncio.Event()
    task = asyncio.create_task(
        run(
            load_scenario(scenario_file(server.url, ONE)),
            Constant(50, 20),
            on_progress=lambda progress: started.set() if progress.answered else None,
        )
    )
    await asyncio.wait_for(started.wait(), 10)
    pids = set(children_of(os.getpid())) - others
    assert pids
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(alive(pid) for pid in pids)


async def test_a_process_that_does_not_come_up(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    body = f"""
    import os, sys
    if os.getpid() != {os.getpid()}:
        print("no licence", file=sys.stderr, flush=True)
        os._exit(7)
    @journey
    async def one(user): ...
    """
    with pytest.raises(WorkerError, match="exit code 7; it said: no licence"):
        await run(load_scenario(scenario_file(server.url, body)), Constant(10, 1))


async def test_nonsense_and_ceilings_are_refused(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    scenario = load_scenario(scenario_file(server.url, ONE))
    with pytest.raises(MisuseError, match="expected at most 20000 arrivals a second, got 20001"):
        await run(scenario, Constant(20_001, 1))
    with pytest.raises(MisuseError, match="expected at most 3600 s"):
        await run(scenario, Constant(1, "2h"))
    with pytest.raises(MisuseError, match="warmup: expected less than the 1 s"):
        await run(scenario, Constant(1, 1), warmup=1)
    with pytest.raises(MisuseError, match="processes"):
        await run(scenario, Constant(1, 1), processes=0)
    with pytest.raises(MisuseError, match="at least one objective"):
        await find_breakpoint(scenario, objectives=[])
    with pytest.raises(MisuseError, match="timeout"):
        RunOptions(timeout=0)
    assert server.connections == 0


async def test_an_arrival_rate_of_which_nothing_comes_is_invalid(serve: Any, raw: Any, scenario_file: Any) -> None:
    server = await serve(raw(OK))
    path = scenario_file(server.url, "@journey\nasync def idle(user): ...\n")
    result = await run(load_scenario(path), Constant(20, 0.5))
    assert verdict(result).exit_code == 2
    assert "no sample" in result.invalid[0]


@pytest.mark.slow
async def test_breakpoint_of_a_server_of_known_capacity(serve: Any, scenario_file: Any) -> None:
    """One lock, 10 ms a request: the capacity is a little under 100 a second."""
    lock = asyncio.Lock()

    async def handle(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with lock:
            await asyncio.sleep(0.01)
        writer.write(OK)
        return True

    server = await serve(handle)
    seen: list[int] = []
    found = await find_breakpoint(
        load_scenario(scenario_file(server.url, ONE)),
        objectives=[Objective(p95="150ms", errors="1%")],
        search=SearchOptions(start=40, ceiling=1000, precision=0.5, samples=50, min_seconds=1.0, budget=60.0),
        poisson=False,
        on_progress=lambda progress: seen.append(progress.number),
    )
    assert found.lowest_failing is not None
    assert 40 <= found.highest_passing <= 105
    assert 50 < found.lowest_failing <= 200
    assert any(probe.early and "the verdict is certain" in probe.note for probe in found.probes)
    assert seen[-1] == len(found.probes)


INTERRUPTED = """
import asyncio, sys
from tenfold.load import Constant, RunOptions, load_scenario, run

def show(progress):
    print(progress.answered, flush=True)

async def main():
    options = RunOptions(handle_sigint=True)
    result = await run(load_scenario(sys.argv[1]), Constant(50, 30), on_progress=show, options=options)
    result.save(sys.argv[2])

asyncio.run(main())
"""


async def test_sigint_saves_a_partial_result_and_leaves_nothing_running(
    serve: Any, raw: Any, scenario_file: Any, tmp_path: Path
) -> None:
    server = await serve(raw(OK))
    out = tmp_path / "result.json"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", INTERRUPTED, str(scenario_file(server.url, ONE)), str(out),
        stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        async with asyncio.timeout(30):
            while int(await child.stdout.readline() or 0) < 20:
                pass
            os.killpg(child.pid, signal.SIGINT)
            await child.stdout.read()
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    saved = json.loads(out.read_bytes())
    assert (saved["complete"], saved["stopped_because"]) == (False, "interrupted")
    assert not any(alive(client["pid"]) for client in saved["clients"])
    assert saved["steps"][0]["attempts"] >= 20
    assert saved["steps"][0]["errors"] == {}


async def test_sigint_before_the_start_ends_the_wait(scenario_file: Any, serve: Any, raw: Any) -> None:
    server = await serve(raw(OK))
    body = f"""
    import os, signal, time
    if os.getpid() != {os.getpid()}:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(20)
    @journey
    async def one(user): ...
    """
    began, others = monotonic(), set(children_of(os.getpid()))
    options = RunOptions(handle_sigint=True)
    result = await run(load_scenario(scenario_file(server.url, body)), Constant(10, 1), options=options)
    assert monotonic() - began < 8
    assert (result.complete, result.stopped_because, result.started) == (False, "interrupted", 0)
    assert set(children_of(os.getpid())) <= others


async def test_tls_is_verified_unless_the_scenario_says_otherwise(scenario_file: Any, raw: Any, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    await asyncio.to_thread(
        subprocess.run,
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        path = scenario_file(url, ONE)
        with pytest.raises(TargetDownError, match=r"TLS handshake .* failed"):
            await run(load_scenario(path), Constant(20, 0.5))
        path.write_text(path.read_text().replace(f"target({url!r})", f"target({url!r}, verify=False)"))
        result = await run(load_scenario(path), Constant(20, 0.5))
    finally:
        server.close()
    assert result.totals.errors == {}
    assert result.totals.attempts == 10


def test_errors_are_one_family() -> None:
    assert issubclass(TargetDownError, LoadError)
    assert issubclass(WorkerError, LoadError)
