"""Policies for Prometheus: a collector that reads plain counters when it is scraped.

The other way round, a counter of ``prometheus_client`` per call, costs 0.5 µs to 2 µs each, more than a whole policy
does. So the calls count into integers of their own, and a scrape turns the `state` of each living policy into
samples. A policy that is gone takes its series with it; what a reload takes out does, too.

Names follow Prometheus' manners: base units in the name, ``_total`` for what only grows, a state as one series for
each possible value, of which one is 1. No label holds anything that a caller controls: of breakers and limits by
key there are sums, not keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tenfold._core.errors import MisuseError
from tenfold.resilience.breaker import State
from tenfold.resilience.registry import REGISTRY

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Sample = tuple[tuple[str, ...], float]
"""The values of the labels after ``policy``, and the value."""
Read = Callable[[Mapping[str, Any]], Iterable[Sample]]


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric: where in a state it is found and what it is called."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()


def _at(*path: str) -> Read:
    """The number at that place of the state; none where the policy has no such part."""

    def read(state: Mapping[str, Any]) -> Iterable[Sample]:
        found: Any = state
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return [] if found is None else [((), float(found))]

    return read


def _each(part: str, **keys: str) -> Read:
    """Several numbers of a part under one label: its value, and the key that it is read from."""

    def read(state: Mapping[str, Any]) -> Iterable[Sample]:
        found = state.get(part) if part else state
        if not isinstance(found, Mapping):
            return []
        return [((value,), float(found[key])) for value, key in keys.items() if key in found]

    return read


def _all(*path: str) -> Read:
    """All numbers of a dictionary under one label."""

    def read(state: Mapping[str, Any]) -> Iterable[Sample]:
        found: Any = state
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return [((name.replace(" ", "_"),), float(value)) for name, value in (found or {}).items()]

    return read


def _whether(key: str) -> Read:
    return lambda state: [((), float(state.get(key) is not None))]


def _length(key: str) -> Read:
    return lambda state: [((), float(len(state.get(key, ()))))]


def _breaker_states(state: Mapping[str, Any]) -> Iterable[Sample]:
    now = (state.get("breaker") or {}).get("state")
    return [] if now is None else [((each.value,), float(each.value == now)) for each in State]


def _breaker_results(state: Mapping[str, Any]) -> Iterable[Sample]:
    counters = (state.get("breaker") or {}).get("counters")
    return _each("counters", success="successes", failure="failures", slow="slow", neutral="neutral")(
        {"counters": counters}
    )


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
    _Family(
        "tenfold_policy_calls",
        "counter",
        "Calls that have ended, by outcome. A failure answered by a fallback is a failure.",
        _each("", success="successes", failure="failures", cancelled="cancelled"),
        ("outcome",),
    ),
    _Family("tenfold_policy_retries", "counter", "Tries after the first of a call.", _at("retries")),
    _Family(
        "tenfold_policy_retries_refused",
        "counter",
        "Tries after the first that the retry budget did not pay for.",
        _at("retries_refused"),
    ),
    _Family("tenfold_policy_attempt_timeouts", "counter", "Tries stopped at the time-out.", _at("timeouts")),
    _Family("tenfold_policy_deadlines_exceeded", "counter", "Tries stopped at the deadline.", _at("deadlines")),
    _Family(
        "tenfold_policy_rejections", "counter", "Tries that a layer did not let through.", _all("rejected"), ("layer",)
    ),
    _Family("tenfold_policy_deadline_seconds", "gauge", "How long a call may take, retries included.", _at("deadline")),
    _Family("tenfold_policy_timeout_seconds", "gauge", "How long one try may take.", _at("timeout")),
    _Family(
        "tenfold_retry_budget_tokens", "gauge", "Further tries that the budget would pay for.", _at("budget", "tokens")
    ),
    _Family(
        "tenfold_retry_budget_capacity_tokens", "gauge", "Most tokens that the budget saves up.", _at("budget", "cap")
    ),
    _Family(
        "tenfold_retry_budget_spent",
        "counter",
        "Further tries, hedges included, that the budget paid for.",
        _at("budget", "spent"),
    ),
    _Family("tenfold_breaker_state", "gauge", "1 for the state that the breaker is in.", _breaker_states, ("state",)),
    _Family("tenfold_breaker_circuits", "gauge", "Circuits of a breaker by key in each state.", _circuits, ("state",)),
    _Family(
        "tenfold_breaker_results",
        "counter",
        "Results that the breaker was told, slow ones among the others.",
        _breaker_results,
        ("result",),
    ),
    _Family("tenfold_breaker_opened", "counter", "How often the breaker opened.", _at("breaker", "counters", "opened")),
    _Family(
        "tenfold_breaker_rejected", "counter", "Tries that the breaker refused.", _at("breaker", "counters", "rejected")
    ),
    _Family("tenfold_breaker_probes", "counter", "Half-open permits handed out.", _at("breaker", "counters", "probes")),
    _Family("tenfold_bulkhead_places", "gauge", "Calls that the bulkhead lets run at a time.", _at("bulkhead", "size")),
    _Family("tenfold_bulkhead_in_use", "gauge", "Places of the bulkhead that are taken.", _at("bulkhead", "in_use")),
    _Family("tenfold_bulkhead_waiting", "gauge", "Calls that wait for a place.", _at("bulkhead", "queued")),
    _Family("tenfold_bulkhead_rejected", "counter", "Calls that got no place.", _at("bulkhead", "rejected")),
    _Family(
        "tenfold_ratelimit_calls",
        "counter",
        "Calls that asked the rate limiter.",
        _each("limit", admitted="admitted", refused="refused"),
        ("decision",),
    ),
    _Family(
        "tenfold_ratelimit_unmetered",
        "counter",
        "Calls let through uncounted because the store did not answer.",
        _at("limit", "unmetered"),
    ),
    _Family(
        "tenfold_ratelimit_store_up", "gauge", "1 while the store of a shared limit answers.", _at("limit", "store_up")
    ),
    _Family(
        "tenfold_ratelimit_store_failures", "counter", "Times that the store did not answer.", _at("limit", "failures")
    ),
    _Family("tenfold_ratelimit_keys", "gauge", "Keys that the rate limiter remembers.", _at("limit", "keys")),
    _Family(
        "tenfold_adaptive_limit_places",
        "gauge",
        "Calls at a time that the adaptive limit allows.",
        _at("limit", "limit"),
    ),
    _Family("tenfold_adaptive_limit_in_flight", "gauge", "Calls that run under it.", _at("limit", "in_flight")),
    _Family("tenfold_hedges", "counter", "Further attempts started because a call was slow.", _at("hedge", "hedges")),
    _Family("tenfold_hedges_won", "counter", "Calls that a hedge answered first.", _at("hedge", "won")),
    _Family("tenfold_hedges_denied", "counter", "Hedges that the budget did not pay for.", _at("hedge", "denied")),
    _Family("tenfold_hedge_delay_seconds", "gauge", "How slow a call has to be to be hedged.", _at("hedge", "delay")),
    _Family("tenfold_fallback_used", "counter", "Calls answered by the fallback.", _at("fallback", "used")),
    _Family("tenfold_fallback_failures", "counter", "Fallbacks that failed as well.", _at("fallback", "failures")),
    _Family(
        "tenfold_chaos_injections",
        "counter",
        "What chaos did to calls.",
        _each("chaos", fault="faults", latency="delays", outcome="outcomes"),
        ("kind",),
    ),
    _Family(
        "tenfold_chaos_remaining_seconds", "gauge", "Seconds until chaos ends; 0: it is off.", _at("chaos", "left")
    ),
)

_SHEDDER: Final = (
    _Family("tenfold_shedder_places", "gauge", "Requests that run at a time.", _at("limit")),
    _Family("tenfold_shedder_running", "gauge", "Requests that run.", _at("running")),
    _Family("tenfold_shedder_waiting", "gauge", "Requests that wait for a place.", _at("waiting")),
    _Family("tenfold_shedder_shedding", "gauge", "1 while requests are turned away.", _at("shedding")),
    _Family("tenfold_shedder_admitted", "counter", "Requests that got a place.", _all("admitted"), ("priority",)),
    _Family(
        "tenfold_shedder_shed",
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
    _Family("tenfold_degradation_level", "gauge", "The level in force; 0: everything is on.", _at("level")),
    _Family("tenfold_degradation_pinned", "gauge", "1 while somebody has pinned the level.", _whether("pin")),
    _Family("tenfold_degradation_switch", "gauge", "1 for what is switched on.", _all("switches"), ("switch",)),
)

_FILE: Final = (
    _Family("tenfold_config_reloads", "counter", "Changed files that came into force.", _at("reloads")),
    _Family("tenfold_config_rejections", "counter", "Changed files that were wrong.", _at("rejections")),
    _Family("tenfold_config_problems", "gauge", "Things wrong with the file as it is.", _length("problems")),
)


class _Shows(Protocol):
    """Anything that has a state: a shedder, a degradation, a file of policies."""

    def state(self) -> dict[str, object]: ...


class PoliciesCollector:
    """Shows living policies to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(PoliciesCollector())

    ``registry`` is where the policies are (default: `tenfold.resilience.REGISTRY`). ``shedders``, ``degradations`` and
    ``files`` (what `load_policies` returns) are shown, too. Raises `MisuseError` where ``prometheus_client`` is not
    installed.
    """

    def __init__(
        self,
        registry: Iterable[_Shows] = REGISTRY,
        *,
        shedders: Iterable[_Shows] = (),
        degradations: Iterable[_Shows] = (),
        files: Iterable[_Shows] = (),
    ) -> None:
        _client()
        self._groups: Final = (
            ("policy", "name", registry, _POLICY),
            ("shedder", "name", tuple(shedders), _SHEDDER),
            ("degradation", "name", tuple(degradations), _DEGRADATION),
            ("file", "path", tuple(files), _FILE),
        )

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        for label, _, members, families in self._groups:
            if label == "policy" or members:
                for family in families:
                    yield _metric(family, label)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        for label, key, members, families in self._groups:
            states = [member.state() for member in members]
            for family in families:
                metric = _metric(family, label)
                for state in states:
                    for values, value in family.read(state):
                        metric.add_metric((str(state[key]), *values), value)
                if metric.samples:
                    yield metric


def _metric(family: _Family, label: str) -> Any:
    client = _client()
    kind = client.CounterMetricFamily if family.kind == "counter" else client.GaugeMetricFamily
    return kind(family.name, family.help, labels=(label, *family.labels))


def _client() -> Any:
    try:
        from prometheus_client import core
    except ImportError as exc:
        raise MisuseError(
            "PoliciesCollector: expected prometheus_client, which is not installed; say: pip install tenfold[observe]"
        ) from exc
    return core
