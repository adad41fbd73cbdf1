"""What a call behind a policy costs when nothing fails, against peers, and what the policy does when all fails.

Cost: microseconds a call, the work being a function that returns its argument. Sync calls are timed in a loop,
asynchronous ones per await inside one running coroutine on plain asyncio. All candidates take turns, round after
round, and the minimum over the rounds counts: what else the machine does only ever adds. Ratios are ratios of
minima of the same run. Each candidate's answer is checked before it is timed, and a policy's counters afterwards,
so that nothing measured is a no-op.

Behaviour: how many of 100 callers at once a half-open breaker lets through; by what factor three layers of
three attempts multiply the calls to a dependency that is down; how much of its capacity an overloaded dependency
still yields behind `AdaptiveLimit` (a simulation on a virtual clock).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextvars import Context
from itertools import repeat
from typing import Any

from bench import _overload
from bench import _resilience_peers as peers
from bench._timing import minima, no_collector
from tenfold.resilience import (
    AttemptTimeout,
    Breaker,
    BreakerOpen,
    Bulkhead,
    DeadlineExceeded,
    Policy,
    RateLimit,
    RateLimited,
    Registry,
    ResilienceError,
    Retry,
)
from tenfold.resilience.gcra import Meter
from tenfold.testing import FakeClock

CALLERS = 100
LAYERS = 3
ATTEMPTS = 3


def measure(*, quick: bool) -> dict[str, Any]:
    """All numbers; a peer that is not installed gives null and a note."""
    absent = peers.missing()
    notes = [f"{name} is not installed: its numbers are null" for name in absent]
    # Many short turns: on a machine that does other things as well, some of them go undisturbed.
    rounds, seconds = (41, 0.0015) if quick else (121, 0.003)
    registry: Registry[Any] = Registry()
    asyncio.run(_verify(registry))
    cost = _sync_cost(registry, absent, rounds, seconds)
    waits = asyncio.run(_async_cost(registry, absent, rounds, seconds))
    limit = _limit_cost(absent, rounds, seconds)
    behaviour = asyncio.run(_half_open_peers(absent, notes)) | _half_open() | _amplification(quick)
    return {
        "policy_closed_us": cost["tenfold deadline + retry + breaker + bulkhead"],
        "policy_closed_async_us": waits["tenfold deadline + retry + breaker + bulkhead"],
        "policy_timeout_async_us": waits["tenfold deadline + retry + breaker + bulkhead + timeout"],
        "retry_vs_stamina": _ratio(cost["tenfold retry"], cost.get("stamina retry")),
        "retry_vs_stamina_async": _ratio(waits["tenfold retry"], waits.get("stamina retry")),
        "breaker_vs_purgatory": _ratio(cost["tenfold breaker"], cost.get("purgatory breaker")),
        "breaker_vs_purgatory_async": _ratio(waits["tenfold breaker"], waits.get("purgatory breaker")),
        "ratelimit_vs_limits": _ratio(limit["tenfold meter, per key"], limit.get("limits fixed window")),
        **behaviour,
        **_adaptive(quick),
        "sync_us": cost,
        "async_us": waits,
        "limit_us": limit,
        "rounds": rounds,
        "notes": notes,
    }


# Cost


def _sync_cost(registry: Registry[Any], absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    mine = {name: Policy(f"sync {name}", registry=registry, **parts) for name, parts in _policies(wait=False).items()}
    found = {"bare call": peers.work} | {f"tenfold {name}": policy(peers.work) for name, policy in mine.items()}
    found |= peers.sync(absent)
    for name, function in found.items():
        _expect(name, function(7))
    best = _best({name: _timer(function) for name, function in found.items()}, rounds, seconds)
    for policy in mine.values():
        _counted(policy)
    return best


async def _async_cost(registry: Registry[Any], absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    mine = {name: Policy(f"async {name}", registry=registry, **parts) for name, parts in _policies(wait=True).items()}
    found: dict[str, peers.Async] = {"bare await": peers.awork}
    found |= {f"tenfold {name}": policy(peers.awork) for name, policy in mine.items()}
    found |= peers.awaits(absent)
    for name, function in found.items():
        _expect(name, await function(7))
    counts = {name: await _calibrate(function, seconds) for name, function in found.items()}
    best = dict.fromkeys(found, float("inf"))
    for _ in range(rounds):
        with no_collector():
            for name, function in found.items():
                best[name] = min(best[name], await _timed(function, counts[name]))
    for policy in mine.values():
        _counted(policy)
    return best


def _policies(*, wait: bool) -> dict[str, dict[str, Any]]:
    """The parts of the policies that are timed. Only an asynchronous call can be stopped by a time-out."""
    whole = {"deadline": "2s", "retry": Retry(attempts=3), "breaker": Breaker(), "bulkhead": Bulkhead(50)}
    found: dict[str, dict[str, Any]] = {
        "deadline + retry + breaker + bulkhead": whole,
        "deadline": {"deadline": "2s"},
        "retry": {"retry": Retry(attempts=3)},
        "breaker": {"breaker": Breaker()},
        "bulkhead": {"bulkhead": Bulkhead(50)},
        "rate limit": {"limit": RateLimit("1000000000/s")},
    }
    if wait:
        found["deadline + retry + breaker + bulkhead + timeout"] = whole | {"timeout": "500ms"}
        found["timeout"] = {"timeout": "500ms"}
    return found


def _limit_cost(absent: list[str], rounds: int, seconds: float) -> dict[str, float]:
    """A limiter alone, asked for one key; first it has to let 3 of 5 through."""
    found: dict[str, Callable[[], Any]] = {}
    few = Meter(RateLimit("3/m", burst=3))
    _expect("tenfold meter", [_let_through(few, 0.0) for _ in range(5)], [True, True, True, False, False])
    plenty, clock = Meter(RateLimit(float(peers.PLENTY))), time.monotonic
    found["tenfold meter, per key"] = lambda: plenty.admit(clock(), "customer-7")
    for name, make in peers.limiters(absent).items():
        hit = make("customer-7", 3)
        _expect(name, [hit() for _ in range(5)], [True, True, True, False, False])
        found[name] = make("customer-7", None)
    return _best({name: _nullary(function) for name, function in found.items()}, rounds, seconds)


def _let_through(meter: Meter, now: float) -> bool:
    try:
        meter.admit(now, "customer-7")
    except RateLimited:
        return False
    return True


Timer = Callable[[int], float]
"""Microseconds a call over so many calls."""


def _timer(function: peers.Sync) -> Timer:
    def calls(count: int) -> float:
        began = time.perf_counter()
        for _ in repeat(None, count):
            function(7)
        return (time.perf_counter() - began) / count * 1e6

    # In a context of its own: one library leaves a variable in it, and that makes the others' dearer.
    return lambda count: Context().run(calls, count)


def _nullary(function: Callable[[], Any]) -> Timer:
    def timed(count: int) -> float:
        began = time.perf_counter()
        for _ in repeat(None, count):
            function()
        return (time.perf_counter() - began) / count * 1e6

    return timed


async def _timed(function: peers.Async, count: int) -> float:
    began = time.perf_counter()
    for _ in repeat(None, count):
        await function(7)
    return (time.perf_counter() - began) / count * 1e6


async def _calibrate(function: peers.Async, seconds: float) -> int:
    return max(10, int(seconds * 1e6 / await _timed(function, 200)))


def _best(timers: dict[str, Timer], rounds: int, seconds: float) -> dict[str, float]:
    return minima(timers, rounds, seconds, 1e6)


# What is timed does its work


async def _verify(registry: Registry[Any]) -> None:
    """The parts that are timed do what they are there for: retry, open, refuse, stop."""
    parts = _policies(wait=True)["deadline + retry + breaker + bulkhead + timeout"]
    policy = Policy(
        "verified",
        registry=registry,
        **parts | {"timeout": "20ms", "retry": Retry(attempts=3, idempotent=True, base="1ms")},
    )
    calls, ended = 0, 0

    async def hangs(value: Any) -> Any:
        nonlocal calls, ended
        calls += 1
        try:
            await asyncio.sleep(30)
        finally:
            ended += 1

    await _raises(AttemptTimeout, policy(hangs))
    if not calls == ended == 3:
        raise RuntimeError(f"three attempts that hang were to be made and stopped: made {calls}, ended {ended}")

    async def fails(value: Any) -> Any:
        raise ConnectionRefusedError("down")

    for _ in range(200):
        try:
            await policy(fails)(7)
        except BreakerOpen:
            break
        except OSError:
            continue
    else:
        raise RuntimeError("200 failures in a row did not open the breaker")
    await _raises(DeadlineExceeded, Policy("short", deadline="20ms", registry=registry)(hangs))


async def _raises(kind: type[Exception], function: peers.Async) -> None:
    try:
        await function(7)
    except kind:
        return
    raise RuntimeError(f"expected {kind.__name__}, and the call came back")


def _expect(name: str, got: Any, expected: Any = 7) -> None:
    if got != expected:
        raise RuntimeError(f"{name}: expected {expected!r}, got {got!r}")


def _counted(policy: Policy, least: int = 1000) -> None:
    """The policy saw the calls that were timed, and no other outcome than success."""
    counters = policy.counters
    if counters.successes < least or counters.successes != counters.calls:
        raise RuntimeError(f"policy {policy.name!r} was to see {least} successes or more: {policy.state()}")


# Behaviour


def _half_open() -> dict[str, Any]:
    options = Breaker()

    async def main(clock: FakeClock) -> int:
        policy = Policy("half-open", breaker=options, registry=Registry(), clock=clock)
        down, inside, gate = True, 0, asyncio.Event()

        @policy
        async def call(value: Any) -> Any:
            nonlocal inside
            if down:
                raise OSError("down")
            inside += 1
            await gate.wait()
            return value

        retry_after = None
        for _ in range(1000):
            try:
                await call(7)
            except BreakerOpen as error:
                retry_after = error.retry_after
                break
            except OSError:
                continue
        if retry_after is None:
            raise RuntimeError("1000 failures in a row did not open the breaker")
        await asyncio.sleep(retry_after + 0.001)
        down = False
        tasks = [asyncio.ensure_future(call(7)) for _ in range(CALLERS)]
        for _ in range(20):
            await asyncio.sleep(0)
        admitted = inside
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if [result for result in results if result == 7] != [7] * admitted:
            raise RuntimeError(f"{admitted} calls were let through, and these came back: {results}")
        return admitted

    with FakeClock() as clock:
        return {"half_open_admitted": clock.run(main(clock)), "half_open_permits": options.permits}


async def _half_open_peers(absent: list[str], notes: list[str]) -> dict[str, Any]:
    found: dict[str, int | None] = {}
    for name in ("purgatory", "hyx", "pyresilience", "pybreaker", "circuitbreaker"):
        found[name] = None
        if name not in absent:
            others = [other for other in peers.NAMES if other != name]
            found[name] = await peers.half_open(
                lambda function, name=name, others=others: peers.breakers(others, function)[name], CALLERS
            )
            if found[name] is None:
                notes.append(f"{name} did not open although every call of an async function failed")
            elif found[name] != 1:
                notes.append(f"{name} let {found[name]} of {CALLERS} callers through when half-open")
    return {"half_open_admitted_peers": found}


def _amplification(quick: bool) -> dict[str, Any]:
    """Calls to a dependency that is down, for each call of a client: three layers, each with three attempts."""
    calls = 500 if quick else 3000

    async def main(clock: FakeClock) -> float:
        registry: Registry[Any] = Registry()
        reached = 0

        async def dependency(value: Any) -> Any:
            nonlocal reached
            reached += 1
            raise ConnectionRefusedError("down")

        function: peers.Async = dependency
        for layer in range(LAYERS):
            policy = Policy(
                f"layer-{layer}",
                retry=Retry(attempts=ATTEMPTS, idempotent=True),
                registry=registry,
                clock=clock,
            )
            function = policy(function)
        held = registry  # the policies live as long as the functions they wrap

        async def one() -> None:
            try:
                await function(7)
            except (OSError, ResilienceError):
                return
            raise RuntimeError("a dependency that is down answered")

        tasks = []
        for _ in range(calls):
            tasks.append(asyncio.ensure_future(one()))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        del held
        return reached / calls

    with FakeClock() as clock:
        return {
            "retry_amplification": clock.run(main(clock)),
            "retry_amplification_without_budget": float(ATTEMPTS**LAYERS),
            "retry_amplification_calls": calls,
        }


def _adaptive(quick: bool) -> dict[str, Any]:
    """Twice the capacity offered, a limit that starts where nobody told it to: the worst of the seeds."""
    raw = [_overload.simulate(seed) for seed in range(3 if quick else 10)]
    return {
        "adaptive_goodput_share": min(one["goodput_share"] for one in raw),
        "adaptive_p99_vs_unloaded": max(one["p99_vs_unloaded"] for one in raw),
        "adaptive_median_limit": statistics.median(one["limit"] for one in raw),
        "adaptive_raw": raw,
    }


def _ratio(mine: float, theirs: float | None) -> float | None:
    return mine / theirs if theirs else None
