"""What a request costs with two processes beside one: in CPU, so that it says the same on any number of cores.

``two_processes_cpu_vs_one`` is CPU a request with two processes over that with one (1 would be perfect, 1.10 is the
mark), and ``two_processes_scaling`` the same as a speed: two over that. Compared is at equal connections *a process*,
64 on one against 128 on two, from two wrk. A loop that is under load handles several sockets each time it wakes up, and
what it shares among them (the wake-up, warm caches, `Outbox`) is shared among fewer where two processes share 64
connections; ``two_processes_64_cpu_vs_one`` has that in it too. The control is two gateways that know nothing of each
other, on two ports with 64 connections each: what they cost more than one is the machine's doing (cores shared with wrk
and the backend), and what two processes cost more than they is ours.

None of them is pinned, or one would have a core of its own and two would not. The supervisor's CPU counts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench._gateway_cost import CONNECTIONS, Load
from bench._gateway_peers import Bench, Proxy, cpu


def measure(bench: Bench, quick: bool) -> dict[str, Any]:
    """The ratios, and what they are made of; null where several processes are not to be had."""
    one, two = bench.ours("one", pinned=False), bench.ours("two", processes=2, pinned=False)
    pair = [bench.ours(f"pair{number}", pinned=False) for number in range(2)]
    if one is None or two is None or len(two.pids) < 3 or None in pair:
        return {"two_processes_cpu_vs_one": None, "two_processes_scaling": None}
    rounds, seconds = (1, 1) if quick else (7, 1)
    load = Load(bench, "/")
    # The proxies, and the connections of each wrk.
    runs: dict[str, tuple[list[Proxy], int]] = {
        "one": ([one], CONNECTIONS),
        "two": ([two, two], CONNECTIONS),
        "pair": ([each for each in pair if each is not None], CONNECTIONS),
        "two_64": ([two], CONNECTIONS),
    }
    best = dict.fromkeys(runs, float("inf"))
    rates = dict.fromkeys(runs, 0.0)
    lesser = 1.0
    with ThreadPoolExecutor(2) as threads:
        for turn in range(rounds + 1):
            for name, (proxies, connections) in runs.items():
                pids = [pid for proxy in dict.fromkeys(proxies) for pid in proxy.pids]
                before = [cpu([pid]) for pid in pids]
                ports = [proxy.port for proxy in proxies]
                done = list(threads.map(lambda port, count=connections: load.run(port, seconds, count), ports))
                used = [cpu([pid]) - was for pid, was in zip(pids, before, strict=True)]
                if turn:  # the first one warms up
                    best[name] = min(best[name], sum(used) / sum(each[0] for each in done) * 1e6)
                    rates[name] = max(rates[name], sum(each[1] for each in done))
                    if name == "two":
                        lesser = min(lesser, sorted(used)[-2] / sum(used))
    return {
        "two_processes_cpu_vs_one": round(best["two"] / best["one"], 3),
        "two_processes_scaling": round(2 * best["one"] / best["two"], 3),
        "two_processes_64_cpu_vs_one": round(best["two_64"] / best["one"], 3),
        "two_gateways_cpu_vs_one": round(best["pair"] / best["one"], 3),
        "two_processes_lesser_share": round(lesser, 2),
        "processes_cpu_us": {name: round(value, 1) for name, value in best.items()},
        "processes_requests_s": {name: round(value) for name, value in rates.items()},
    }
