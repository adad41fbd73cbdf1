"""What two gateway processes cost a request beside one: CPU seconds of all processes of the gateway, the supervisor
included, over the requests they answered; and how many requests a second each comes to.

In turns, the least of the rounds, as `bench._gateway`. With two cores, on which the backend and wrk run too, requests a
second say little of scaling; CPU a request is what two processes must not make worse.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench._gateway import _OURS, _cpu, _path, _wrk
from bench._targets import fast, free_port, started


def measure(quick: bool) -> dict[str, Any]:
    """Microseconds of CPU a request with one and two processes, and the second over the first."""
    if shutil.which("wrk") is None:
        return {"gateway_processes_skipped": "wrk is not installed"}
    seconds, rounds = (1, 3) if quick else (3, 5)
    with ExitStack() as stack:
        _, url = stack.enter_context(fast(None))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running: dict[int, tuple[int, int]] = {}
        for processes in (1, 2):
            port = free_port()
            file = root / f"{processes}.toml"
            text = _OURS.format(port=port, url=url, route='retries = 3\ndeadline = "30s"')
            file.write_text(text.replace("[[pool]]", f"processes = {processes}\n[[pool]]", 1))
            with _path():
                command = [sys.executable, "-m", "tenfold", "gateway", "run", str(file)]
                running[processes] = port, stack.enter_context(started(command, port)).pid
        best = dict.fromkeys(running, float("inf"))
        rates = dict.fromkeys(running, 0.0)
        shares: list[float] = []
        for port, _ in running.values():
            # The supervisor's sockets take connections before a worker is there to serve them.
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                answer.read()
            _wrk(port, 1)
        for _ in range(rounds):
            for processes, (port, pid) in running.items():
                before = [_cpu(each) for each in _all(pid)]
                requests, rate = _wrk(port, seconds)
                used = [_cpu(each) - was for each, was in zip(_all(pid), before, strict=True)]
                best[processes] = min(best[processes], sum(used) / requests * 1e6)
                rates[processes] = max(rates[processes], rate)
                if processes == 2:
                    shares.append(round(min(used[1:]) / sum(used), 2))
    return {
        "gateway_processes_cpu_us": {str(n): round(value, 1) for n, value in best.items()},
        "gateway_processes_requests_s": {str(n): round(value) for n, value in rates.items()},
        "gateway_processes_lesser_share": shares,
        "two_processes_cpu_vs_one": round(best[2] / best[1], 3),
    }


def _all(pid: int) -> list[int]:
    """The supervisor, if it is one, and its workers."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
