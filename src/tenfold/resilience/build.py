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
from tenfold.resilience.hedge import Hedger
from tenfold.resilience.meters import meter_of
from tenfold.resilience.plan import Plan
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retrier, Retry
from tenfold.resilience.weave import Shape

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
    _retry(plan, options.retry, old, rng)
    _breaker(plan, options.breaker, old, rng)
    _limit(plan, options.limit, old)
    name, hub, clock = plan.name, plan.hub, plan.clock
    if (bulkhead := options.bulkhead) is not None:
        plan.places = _kept(old, "places", bulkhead) or Places(bulkhead, clock)
    if (hedge := options.hedge) is not None:
        # Hedges are paid for from the budget of the retries, so another purse needs another hedger.
        same = old if old is not None and old.purse is plan.purse else None
        plan.hedger = _kept(same, "hedger", hedge) or Hedger(hedge, plan.purse, policy=name, clock=clock, hub=hub)
    if (fallback := options.fallback) is not None:
        plan.stopgap = _kept(old, "stopgap", fallback) or Stopgap(fallback, policy=name, hub=hub)
    if (chaos := options.chaos) is not None:
        plan.injector = _kept(old, "injector", chaos) or Injector(chaos, policy=name, clock=clock, hub=hub)


def _kept(old: Plan | None, slot: str, options: Any) -> Any:
    """The old part, going by its new options; None where there was none."""
    live = None if old is None else getattr(old, slot)
    if live is not None and getattr(live, "options", None) != options:
        live.reconfigure(options)
    return live


def _retry(plan: Plan, given: Retry | None, old: Plan | None, rng: random.Random) -> None:
    if given is not None:
        retrier: Retrier = _kept(old, "retrier", given) or Retrier(given, rng)
        plan.retrier, plan.purse = retrier, retrier.purse


def _breaker(plan: Plan, given: Breaker | None, old: Plan | None, rng: random.Random) -> None:
    if given is None:
        return
    plan.slow_call = math.inf if given.slow_call is None else float(given.slow_call)
    plan.breaker_key = given.key
    name, hub, clock = plan.name, plan.hub, plan.clock
    if given.key is None:
        plan.circuit = _kept(old, "circuit", given) or Circuit(name, given, rng=rng, hub=hub)
    else:
        plan.circuits = _kept(old, "circuits", given) or Circuits(name, given, rng=rng, hub=hub, clock=clock)


def _limit(plan: Plan, given: RateLimit | AdaptiveLimit | None, old: Plan | None) -> None:
    if isinstance(given, AdaptiveLimit):
        plan.limiter = _kept(old, "limiter", given) or AdaptivePlaces(given, name=plan.name, hub=plan.hub)
    elif isinstance(given, RateLimit):
        plan.meter_key = given.key
        live = None if old is None else old.meter
        if live is not None and live.local is (given.store is None):
            live.reconfigure(given, plan.monotonic())
            plan.meter = live
        else:
            plan.meter = meter_of(given, name=plan.name, hub=plan.hub)


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
