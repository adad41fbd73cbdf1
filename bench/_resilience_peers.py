"""The libraries that `bench.resilience` compares with, each used as its own documentation shows.

A library that is not installed is left out and named. ``sync`` and ``awaits`` are decorated functions that return
their argument; ``breakers`` are asynchronous functions behind a breaker that opens after 3 failures and is tried
again after 50 ms.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

NAMES = (
    "tenacity",
    "stamina",
    "purgatory",
    "pybreaker",
    "circuitbreaker",
    "hyx",
    "pyresilience",
    "limits",
    "aiolimiter",
)
Sync = Callable[[Any], Any]
Async = Callable[[Any], Awaitable[Any]]
RECOVERY = 0.05
FAILURES = 3
PLENTY = 10**9


def missing() -> list[str]:
    """The peers that are not installed."""
    return [name for name in NAMES if importlib.util.find_spec(name) is None]


def work(value: Any) -> Any:
    return value


async def awork(value: Any) -> Any:
    return value


def sync(absent: list[str]) -> dict[str, Sync]:
    """Plain functions behind one part each, or behind a whole stack."""
    found: dict[str, Sync] = {}
    if "tenacity" not in absent:
        import tenacity

        found["tenacity retry"] = tenacity.retry(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential()
        )(work)
    if "stamina" not in absent:
        import stamina

        found["stamina retry"] = stamina.retry(on=OSError, attempts=3)(work)
    if "purgatory" not in absent:
        from purgatory import SyncCircuitBreakerFactory

        found["purgatory breaker"] = SyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)("sync")(work)
    if "pybreaker" not in absent:
        import pybreaker

        found["pybreaker breaker"] = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)(work)
    if "circuitbreaker" not in absent:
        import circuitbreaker

        found["circuitbreaker breaker"] = circuitbreaker.CircuitBreaker(failure_threshold=5, recovery_timeout=30)(work)
    if "pyresilience" not in absent:
        import pyresilience as pr

        found["pyresilience retry"] = pr.resilient(retry=pr.RetryConfig())(work)
        found["pyresilience breaker"] = pr.resilient(circuit_breaker=pr.CircuitBreakerConfig())(work)
        found["pyresilience retry + breaker + bulkhead"] = pr.resilient(
            retry=pr.RetryConfig(),
            retry_budget=pr.RetryBudgetConfig(),
            circuit_breaker=pr.CircuitBreakerConfig(),
            bulkhead=pr.BulkheadConfig(max_concurrent=50),
        )(work)
    return found


def awaits(absent: list[str]) -> dict[str, Async]:
    """Asynchronous functions behind one part each, or behind a whole stack. Made inside of the loop."""

    async def with_timeout(value: Any) -> Any:
        async with asyncio.timeout(0.5):
            return await awork(value)

    async def with_wait_for(value: Any) -> Any:
        return await asyncio.wait_for(awork(value), 0.5)

    semaphore = asyncio.Semaphore(50)

    async def with_semaphore(value: Any) -> Any:
        async with semaphore:
            return await awork(value)

    found: dict[str, Async] = {
        "asyncio.timeout": with_timeout,
        "asyncio.wait_for": with_wait_for,
        "asyncio.Semaphore": with_semaphore,
    }
    if "tenacity" not in absent:
        import tenacity

        found["tenacity retry"] = tenacity.retry(
            stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential()
        )(awork)
    if "stamina" not in absent:
        import stamina

        found["stamina retry"] = stamina.retry(on=OSError, attempts=3)(awork)
    if "purgatory" not in absent:
        from purgatory import AsyncCircuitBreakerFactory

        found["purgatory breaker"] = AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=30)("async")(awork)
    if "hyx" not in absent:
        from hyx.bulkhead import bulkhead
        from hyx.circuitbreaker import consecutive_breaker
        from hyx.retry import retry
        from hyx.timeout import timeout

        def stack(function: Any) -> Any:
            part = bulkhead(max_concurrency=50, max_capacity=100)(function)
            return retry(on=OSError, attempts=3)(consecutive_breaker(exceptions=OSError)(part))

        found["hyx breaker"] = consecutive_breaker(exceptions=OSError)(awork)
        found["hyx retry + breaker + bulkhead"] = stack(awork)
        found["hyx retry + breaker + bulkhead + timeout"] = stack(timeout(max_delay_secs=0.5)(awork))
    if "pyresilience" not in absent:
        import pyresilience as pr

        parts: dict[str, Any] = {
            "retry": pr.RetryConfig(),
            "retry_budget": pr.RetryBudgetConfig(),
            "circuit_breaker": pr.CircuitBreakerConfig(),
            "bulkhead": pr.BulkheadConfig(max_concurrent=50),
        }
        found["pyresilience retry + breaker + bulkhead"] = pr.resilient(**parts)(awork)
        found["pyresilience retry + breaker + bulkhead + timeout"] = pr.resilient(
            **parts, timeout=pr.TimeoutConfig(seconds=0.5)
        )(awork)
    if "aiolimiter" not in absent:
        import aiolimiter

        limiter = aiolimiter.AsyncLimiter(PLENTY, 1)

        async def limited(value: Any) -> Any:
            async with limiter:
                return value

        found["aiolimiter leaky bucket"] = limited
    return found


def limiters(absent: list[str]) -> dict[str, Callable[[str, int | None], Callable[[], bool]]]:
    """Per key and limit (None: more than anybody uses): a function that says whether a hit is let through."""
    if "limits" in absent:
        return {}
    import limits
    from limits import storage, strategies

    def maker(strategy: Any) -> Callable[[str, int | None], Callable[[], bool]]:
        def make(key: str, limit: int | None) -> Callable[[], bool]:
            limiter = strategy(storage.MemoryStorage())
            item = limits.RateLimitItemPerMinute(limit or PLENTY)
            hit = limiter.hit
            return lambda: hit(item, key)

        return make

    return {
        "limits fixed window": maker(strategies.FixedWindowRateLimiter),
        "limits sliding window counter": maker(strategies.SlidingWindowCounterRateLimiter),
        # The moving window keeps every hit, so it cannot be measured under an endless stream.
    }


def breakers(absent: list[str], function: Async) -> dict[str, Async]:
    """``function`` behind a breaker of each peer."""
    found: dict[str, Async] = {}
    if "purgatory" not in absent:
        from purgatory import AsyncCircuitBreakerFactory

        found["purgatory"] = AsyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=RECOVERY)("one")(
            function
        )
    if "hyx" not in absent:
        from hyx.circuitbreaker import consecutive_breaker

        found["hyx"] = consecutive_breaker(
            exceptions=OSError, failure_threshold=FAILURES, recovery_time_secs=RECOVERY, recovery_threshold=1
        )(function)
    if "pyresilience" not in absent:
        import pyresilience as pr

        found["pyresilience"] = pr.resilient(
            circuit_breaker=pr.CircuitBreakerConfig(
                failure_threshold=FAILURES, recovery_timeout=RECOVERY, success_threshold=1
            )
        )(function)
    if "pybreaker" not in absent:
        import pybreaker

        found["pybreaker"] = pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=RECOVERY)(function)
    if "circuitbreaker" not in absent:
        import circuitbreaker

        found["circuitbreaker"] = circuitbreaker.CircuitBreaker(
            failure_threshold=FAILURES, recovery_timeout=RECOVERY, expected_exception=OSError
        )(function)
    return found


async def half_open(behind: Callable[[Async], Async], callers: int, *, opens_within: int = 60) -> int | None:
    """How many of ``callers`` at once get through a breaker that was open and is to be tried again.

    None: it did not open, though ``opens_within`` calls in a row failed.
    """
    down, inside, gate = True, 0, asyncio.Event()

    async def dependency(value: Any) -> Any:
        nonlocal inside
        if down:
            raise OSError("down")
        inside += 1
        await gate.wait()
        return value

    call = behind(dependency)
    for _ in range(opens_within):
        try:
            await call(1)
        except OSError:
            continue
        except Exception:  # noqa: BLE001 - each library has its own "open"
            break
    else:
        return None
    await asyncio.sleep(RECOVERY * 1.2)
    down = False
    tasks = [asyncio.ensure_future(call(1)) for _ in range(callers)]
    for _ in range(20):
        await asyncio.sleep(0)
    admitted = inside
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    return admitted
