"""What policies show: their `state` as metrics, and those of shedders, degradations and files of policies.

Names follow the manners of the field: base units, a state as one series for each possible value, of which one is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from tenfold.observe.table import Family, Group, Owner, Sample, at, each, every, length, whether
from tenfold.resilience.breaker import State


def _breaker_states(state: Mapping[str, Any]) -> Iterable[Sample]:
    now = (state.get("breaker") or {}).get("state")
    return [] if now is None else [((each.value,), float(each.value == now)) for each in State]


def _circuits(state: Mapping[str, Any]) -> Iterable[Sample]:
    """How many circuits of a breaker by key are in each state. Those not told of are plainly closed."""
    breaker = state.get("breaker") or {}
    if "circuits" not in breaker:
        return []
    counts = dict.fromkeys((each.value for each in State), 0)
    for circuit in breaker["circuits"]:
        counts[circuit["state"]] += 1
    counts[State.CLOSED.value] += breaker["keys"] - len(breaker["circuits"])
    return [((name,), float(count)) for name, count in counts.items()]


_POLICY: Final = (
    Family(
        "tenfold.policy.calls",
        "{call}",
        "counter",
        "Calls that have ended, by outcome. A failure answered by a fallback is a failure.",
        each("", success="successes", failure="failures", cancelled="cancelled"),
        ("outcome",),
    ),
    Family("tenfold.policy.retries", "{try}", "counter", "Tries after the first of a call.", at("retries")),
    Family(
        "tenfold.policy.retries_refused",
        "{try}",
        "counter",
        "Tries after the first that the retry budget did not pay for.",
        at("retries_refused"),
    ),
    Family("tenfold.policy.attempt_timeouts", "{try}", "counter", "Tries stopped at the time-out.", at("timeouts")),
    Family("tenfold.policy.deadlines_exceeded", "{try}", "counter", "Tries stopped at the deadline.", at("deadlines")),
    Family(
        "tenfold.policy.rejections",
        "{try}",
        "counter",
        "Tries that a layer did not let through.",
        every("rejected"),
        ("layer",),
    ),
    Family("tenfold.policy.deadline", "s", "gauge", "How long a call may take, retries included.", at("deadline")),
    Family("tenfold.policy.timeout", "s", "gauge", "How long one try may take.", at("timeout")),
    Family(
        "tenfold.retry_budget.tokens",
        "{token}",
        "gauge",
        "Further tries that the budget would pay for.",
        at("budget", "tokens"),
    ),
    Family(
        "tenfold.retry_budget.capacity_tokens",
        "{token}",
        "gauge",
        "Most tokens that the budget saves up.",
        at("budget", "cap"),
    ),
    Family(
        "tenfold.retry_budget.spent",
        "{token}",
        "counter",
        "Further tries, hedges included, that the budget paid for.",
        at("budget", "spent"),
    ),
    Family(
        "tenfold.breaker.state", "", "gauge", "1 for the state that the breaker is in.", _breaker_states, ("state",)
    ),
    Family(
        "tenfold.breaker.circuits",
        "{circuit}",
        "gauge",
        "Circuits of a breaker by key in each state.",
        _circuits,
        ("state",),
    ),
    Family(
        "tenfold.breaker.results",
        "{result}",
        "counter",
        "Results that the breaker was told, slow ones among the others.",
        each("breaker.counters", success="successes", failure="failures", slow="slow", neutral="neutral"),
        ("result",),
    ),
    Family(
        "tenfold.breaker.opened",
        "{opening}",
        "counter",
        "How often the breaker opened.",
        at("breaker", "counters", "opened"),
    ),
    Family(
        "tenfold.breaker.rejected",
        "{try}",
        "counter",
        "Tries that the breaker refused.",
        at("breaker", "counters", "rejected"),
    ),
    Family(
        "tenfold.breaker.probes",
        "{probe}",
        "counter",
        "Half-open permits handed out.",
        at("breaker", "counters", "probes"),
    ),
    Family(
        "tenfold.bulkhead.places",
        "{call}",
        "gauge",
        "Calls that the bulkhead lets run at a time.",
        at("bulkhead", "size"),
    ),
    Family(
        "tenfold.bulkhead.in_use", "{call}", "gauge", "Places of the bulkhead that are taken.", at("bulkhead", "in_use")
    ),
    Family("tenfold.bulkhead.waiting", "{call}", "gauge", "Calls that wait for a place.", at("bulkhead", "queued")),
    Family("tenfold.bulkhead.rejected", "{call}", "counter", "Calls that got no place.", at("bulkhead", "rejected")),
    Family(
        "tenfold.ratelimit.calls",
        "{call}",
        "counter",
        "Calls that asked the rate limiter.",
        each("limit", admitted="admitted", refused="refused"),
        ("decision",),
    ),
    Family(
        "tenfold.ratelimit.unmetered",
        "{call}",
        "counter",
        "Calls let through uncounted because the store did not answer.",
        at("limit", "unmetered"),
    ),
    Family(
        "tenfold.ratelimit.store_up",
        "",
        "gauge",
        "1 while the store of a shared limit answers.",
        at("limit", "store_up"),
    ),
    Family(
        "tenfold.ratelimit.store_failures",
        "{failure}",
        "counter",
        "Times that the store did not answer.",
        at("limit", "failures"),
    ),
    Family("tenfold.ratelimit.keys", "{key}", "gauge", "Keys that the rate limiter remembers.", at("limit", "keys")),
    Family(
        "tenfold.adaptive_limit.places",
        "{call}",
        "gauge",
        "Calls at a time that the adaptive limit allows.",
        at("limit", "limit"),
    ),
    Family("tenfold.adaptive_limit.in_flight", "{call}", "gauge", "Calls that run under it.", at("limit", "in_flight")),
    Family(
        "tenfold.hedges",
        "{attempt}",
        "counter",
        "Further attempts started because a call was slow.",
        at("hedge", "hedges"),
    ),
    Family("tenfold.hedges_won", "{call}", "counter", "Calls that a hedge answered first.", at("hedge", "won")),
    Family(
        "tenfold.hedges_denied",
        "{attempt}",
        "counter",
        "Hedges that the budget did not pay for.",
        at("hedge", "denied"),
    ),
    Family("tenfold.hedge_delay", "s", "gauge", "How slow a call has to be to be hedged.", at("hedge", "delay")),
    Family("tenfold.fallback.used", "{call}", "counter", "Calls answered by the fallback.", at("fallback", "used")),
    Family(
        "tenfold.fallback.failures", "{call}", "counter", "Fallbacks that failed as well.", at("fallback", "failures")
    ),
    Family(
        "tenfold.chaos.injections",
        "{call}",
        "counter",
        "What chaos did to calls.",
        each("chaos", fault="faults", latency="delays", outcome="outcomes"),
        ("kind",),
    ),
    Family("tenfold.chaos.remaining", "s", "gauge", "Seconds until chaos ends; 0: it is off.", at("chaos", "left")),
)

_SHEDDER: Final = (
    Family("tenfold.shedder.places", "{request}", "gauge", "Requests that run at a time.", at("limit")),
    Family("tenfold.shedder.running", "{request}", "gauge", "Requests that run.", at("running")),
    Family("tenfold.shedder.waiting", "{request}", "gauge", "Requests that wait for a place.", at("waiting")),
    Family("tenfold.shedder.shedding", "", "gauge", "1 while requests are turned away.", at("shedding")),
    Family(
        "tenfold.shedder.admitted",
        "{request}",
        "counter",
        "Requests that got a place.",
        every("admitted"),
        ("priority",),
    ),
    Family(
        "tenfold.shedder.shed",
        "{request}",
        "counter",
        "Requests turned away.",
        lambda state: [
            ((reason, priority), float(count))
            for reason, counts in state.get("shed", {}).items()
            for priority, count in counts.items()
        ],
        ("reason", "priority"),
    ),
)

_DEGRADATION: Final = (
    Family("tenfold.degradation.level", "", "gauge", "The level in force; 0: everything is on.", at("level")),
    Family("tenfold.degradation.pinned", "", "gauge", "1 while somebody has pinned the level.", whether("pin")),
    Family("tenfold.degradation.switch", "", "gauge", "1 for what is switched on.", every("switches"), ("switch",)),
)

_FILE: Final = (
    Family("tenfold.config.reloads", "{reload}", "counter", "Changed files that came into force.", at("reloads")),
    Family("tenfold.config.rejections", "{file}", "counter", "Changed files that were wrong.", at("rejections")),
    Family("tenfold.config.problems", "{problem}", "gauge", "Things wrong with the file as it is.", length("problems")),
)


class Shows(Protocol):
    """Anything that has a state: a policy, a shedder, a degradation, a file of policies."""

    def state(self) -> dict[str, object]: ...


def policy_groups(
    registry: Iterable[Shows],
    shedders: Iterable[Shows],
    degradations: Iterable[Shows],
    files: Iterable[Shows],
) -> tuple[Group, ...]:
    """What there is to show. Policies come and go with their registry; the others are those given, and only the kinds
    of which there are any.
    """
    groups = [_group("policy", "name", registry, _POLICY)]
    for label, key, members, families in (
        ("shedder", "name", tuple(shedders), _SHEDDER),
        ("degradation", "name", tuple(degradations), _DEGRADATION),
        ("file", "path", tuple(files), _FILE),
    ):
        if members:
            groups.append(_group(label, key, members, families))
    return tuple(groups)


def _group(label: str, key: str, members: Iterable[Shows], families: tuple[Family, ...]) -> Group:
    def owners() -> list[Owner]:
        states = [(member, member.state()) for member in members]
        return [Owner(member, str(state[key]), state) for member, state in states]

    return Group(label, families, members, owners)
