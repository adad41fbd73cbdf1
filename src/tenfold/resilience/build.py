"""From options to live parts, keeping the old ones where they fit."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from tenfold.resilience import fuse
from tenfold.resilience.adaptive import AdaptiveLimit, AdaptivePlaces
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Places
from tenfold.resilience.chaos import Injector
from tenfold.resilience.checks import Options
from tenfold.resilience.circuit import Circuit
from tenfold.resilience.circuits import Circuits
from tenfold.resilience.fallback import Fallback, Stopgap
from tenfold.resilience.fuse import Shape
from tenfold.resilience.gcra import Meter
from tenfold.resilience.hedge import Hedger
from tenfold.resilience.plan import Plan
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retrier

PARTS: Final = (
    "retrier",
    "purse",
    "circuit",
    "circuits",
    "meter",
    "limiter",
    "places",
    "hedger",
    "stopgap",
    "injector",
)
_TITLES: Final = {
    "purse": "budget",
    "circuit": "breaker",
    "circuits": "breaker",
    "meter": "limit",
    "limiter": "limit",
    "places": "bulkhead",
    "hedger": "hedge",
    "stopgap": "fallback",
    "injector": "chaos",
}


def shape(options: Options) -> Shape:
    """Which layers there are."""
    retry, limit = options.retry, options.limit
    retries = retry is not None and retry.attempts > 1
    meter = "" if not isinstance(limit, RateLimit) else "local" if limit.store is None else "remote"
    return Shape(
        deadline=options.deadline is not None,
        timeout=options.timeout is not None,
        retry=retries,
        budget=retry is not None and retry.budget is not None and (retries or options.hedge is not None),
        on_result=retry is not None and retry.on_result is not None,
        hedge=options.hedge is not None,
        breaker="" if options.breaker is None else "one" if options.breaker.key is None else "keyed",
        meter=meter,  # type: ignore[arg-type]
        meter_key=isinstance(limit, RateLimit) and limit.key is not None,
        adaptive=isinstance(limit, AdaptiveLimit),
        bulkhead=options.bulkhead is not None,
        fallback=options.fallback is not None,
        chaos=options.chaos is not None,
    )


@lru_cache(maxsize=256)
def _functions(form: Shape) -> tuple[Any, Any, Any, Any]:
    return (
        fuse.function(form, "attempt", False),
        fuse.function(form, "attempt", True),
        fuse.function(form, "call", False),
        fuse.function(form, "call", True),
    )


def fill(plan: Plan, options: Options, old: Plan | None, rng: random.Random) -> None:
    """Give ``plan`` its numbers and its parts, those of ``old`` where they are of the same kind."""
    form = shape(options)
    plan.attempt_sync, plan.attempt_async, plan.call_sync, plan.call_async = _functions(form)
    plan.deadline = math.inf if options.deadline is None else options.deadline
    plan.timeout = math.inf if options.timeout is None else options.timeout
    plan.quickest = math.inf if old is None else old.quickest
    plan.answers = options.answers
    plan.idempotent = options.repeatable
    name, hub, clock = plan.name, plan.hub, plan.clock

    def part(kind: str, given: Any, make: Callable[[], Any], fits: Callable[[Any], bool] = lambda live: True) -> Any:
        """The old part with new options, or a new one, or none."""
        live = None if old is None else getattr(old, kind)
        if given is None:
            return None
        if live is None or not fits(live):
            return make()
        if getattr(live, "options", None) != given:
            live.reconfigure(given)
        return live

    if options.retry is not None:
        given = options.retry
        plan.retrier = part("retrier", given, lambda: Retrier(given, rng))
        plan.purse = plan.retrier.purse if plan.retrier is not None else None
    _fill_breaker(plan, options.breaker, part, rng)
    _fill_limit(plan, options.limit, part)
    plan.places = part("places", options.bulkhead, lambda: Places(_sure(options.bulkhead), clock))
    if plan.places is not None:
        plan.free = plan.places.free
    budget = plan.purse
    plan.hedger = part(
        "hedger",
        options.hedge,
        lambda: Hedger(_sure(options.hedge), budget, policy=name, clock=clock, hub=hub),
        lambda live: old is not None and old.purse is budget,
    )
    plan.stopgap = part("stopgap", options.fallback, lambda: Stopgap(_sure(options.fallback), policy=name, hub=hub))
    plan.injector = part(
        "injector", options.chaos, lambda: Injector(_sure(options.chaos), policy=name, clock=clock, hub=hub)
    )


def _fill_breaker(plan: Plan, given: Breaker | None, part: Callable[..., Any], rng: random.Random) -> None:
    if given is None:
        return
    plan.slow_call = math.inf if given.slow_call is None else float(given.slow_call)
    plan.breaker_key = given.key
    if given.key is None:
        plan.circuit = part("circuit", given, lambda: Circuit(plan.name, given, rng=rng, hub=plan.hub))
        return
    plan.circuits = part("circuits", given, lambda: Circuits(plan.name, given, rng=rng, hub=plan.hub, clock=plan.clock))


def _fill_limit(plan: Plan, given: RateLimit | AdaptiveLimit | None, part: Callable[..., Any]) -> None:
    if isinstance(given, AdaptiveLimit):
        plan.limiter = part("limiter", given, lambda: AdaptivePlaces(given, name=plan.name, hub=plan.hub))
    elif isinstance(given, RateLimit):
        plan.meter_key = given.key
        plan.meter = part("meter", given, lambda: _meter(plan, given))


def _meter(plan: Plan, given: RateLimit) -> Any:
    if given.store is None:
        return Meter(given, name=plan.name)
    from tenfold.resilience.distributed import SharedMeter  # needs redis, which is an extra

    return SharedMeter(given, name=plan.name)


def _sure(value: Any) -> Any:
    return value


def check_fallback(name: str, options: Fallback, fn: Callable[..., Any]) -> None:
    """Refuse a fallback that ``fn`` could not wait for."""
    Stopgap(options, policy=name).check(fn)


def parts(plan: Plan) -> dict[str, object]:
    """The state of each live part, by the name of its option."""
    states: dict[str, object] = {}
    now = plan.monotonic()
    for slot, title in _TITLES.items():
        live = getattr(plan, slot)
        if live is not None:
            takes_now = "now" in inspect.signature(live.state).parameters
            states[title] = live.state(now) if takes_now else live.state()
    return states
