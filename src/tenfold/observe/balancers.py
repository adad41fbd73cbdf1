"""What balancers show: their `state()` as metrics.

A balancer has one series, or one for each outcome or state, and none for an endpoint: pods come and go, and their names
with them. Which endpoint it is that is out, and why, stands in `Balancer.state`. Worth an alert::

    tenfold_balancer_panic == 1
    tenfold_balancer_endpoints_ready / tenfold_balancer_endpoints < 0.7

Counters are those of one process, and so are opinions: each process has checks and ejections of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from tenfold.observe.table import Family, Group, Read, Sample, at, each, group_of

_WHY: Final = ("unhealthy", "ejected", "draining")


def _endpoints(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(state["endpoints"].values())


def _counted(key: str) -> Read:
    """For how many endpoints that is true."""
    return lambda state: [((), float(sum(bool(endpoint[key]) for endpoint in _endpoints(state))))]


def _all(state: Mapping[str, Any]) -> Iterable[Sample]:
    return [((), float(len(_endpoints(state))))]


def _out(state: Mapping[str, Any]) -> Iterable[Sample]:
    reasons = [endpoint["why"] for endpoint in _endpoints(state)]
    return [((why,), float(reasons.count(why))) for why in _WHY]


def _in_flight(state: Mapping[str, Any]) -> Iterable[Sample]:
    return [((), float(sum(endpoint["in_flight"] for endpoint in _endpoints(state))))]


FAMILIES: Final = (
    Family(
        "tenfold.balancer.requests",
        "{request}",
        "counter",
        "Requests at endpoints that are over, each try one, by outcome; neutral ones were given up.",
        each("counters", success="succeeded", failure="failed", neutral="neutral"),
        ("outcome",),
    ),
    Family(
        "tenfold.balancer.refused",
        "{request}",
        "counter",
        "Tries for which no endpoint could be given.",
        at("counters", "refused"),
    ),
    Family(
        "tenfold.balancer.further_tries",
        "{try}",
        "counter",
        "Tries after the first: after one that had sent nothing, after one that had, or beside a slow one.",
        each("counters", failover="failovers", retry="retries", hedge="hedges"),
        ("reason",),
    ),
    Family(
        "tenfold.balancer.further_tries_refused",
        "{try}",
        "counter",
        "Further tries that the budget did not pay for or for which no other endpoint was left.",
        at("counters", "retries_refused"),
    ),
    Family("tenfold.balancer.in_flight", "{request}", "gauge", "Requests under way at endpoints.", _in_flight),
    Family("tenfold.balancer.endpoints", "{endpoint}", "gauge", "Endpoints that there are.", _all),
    Family(
        "tenfold.balancer.endpoints_ready",
        "{endpoint}",
        "gauge",
        "Endpoints that nothing speaks against.",
        _counted("ready"),
    ),
    Family(
        "tenfold.balancer.endpoints_in_use",
        "{endpoint}",
        "gauge",
        "Endpoints that are given work; in a panic more than are ready.",
        _counted("in_use"),
    ),
    Family(
        "tenfold.balancer.endpoints_out",
        "{endpoint}",
        "gauge",
        "Endpoints that are not ready, by reason.",
        _out,
        ("reason",),
    ),
    Family(
        "tenfold.balancer.panic",
        "",
        "gauge",
        "1 while so few endpoints are ready that all are used.",
        at("panic"),
    ),
    Family("tenfold.balancer.panics", "{panic}", "counter", "Times that panic began.", at("counters", "panics")),
    Family(
        "tenfold.balancer.ejections",
        "{ejection}",
        "counter",
        "Ejections; none shown without outlier ejection.",
        at("ejection", "ejections"),
    ),
    Family(
        "tenfold.balancer.ejections_withheld",
        "{ejection}",
        "counter",
        "Ejections not made because too large a share would have been out.",
        at("ejection", "withheld"),
    ),
    Family(
        "tenfold.balancer.drains",
        "{drain}",
        "counter",
        "Times that an endpoint was told to drain.",
        at("counters", "drains"),
    ),
    Family(
        "tenfold.balancer.discovery_failures",
        "{failure}",
        "counter",
        "Times that discovery could not say what there is, by kind; empty sets are not believed.",
        each("counters", failed="discovery_failures", empty="discovery_empty"),
        ("kind",),
    ),
    Family(
        "tenfold.balancer.budget_tokens",
        "{token}",
        "gauge",
        "Further tries that the retry budget would pay for.",
        at("budget", "tokens"),
    ),
    Family(
        "tenfold.balancer.budget_capacity_tokens",
        "{token}",
        "gauge",
        "Most tokens that the retry budget saves up.",
        at("budget", "cap"),
    ),
    Family(
        "tenfold.balancer.budget_spent",
        "{token}",
        "counter",
        "Further tries, hedges included, that the retry budget paid for.",
        at("budget", "spent"),
    ),
)


class Balances(Protocol):
    """A balancer: it has a name and says what state it is in."""

    @property
    def name(self) -> str: ...

    def state(self) -> dict[str, Any]: ...


def balancer_group(balancers: Iterable[Balances], reader: str) -> Group:
    """What there is to show of ``balancers``, which may grow. Raises `MisuseError`, in the name of ``reader``."""
    return group_of(
        "balancer",
        FAMILIES,
        balancers,
        lambda balancer: balancer.state(),
        reader,
        'give them names: Balancer(…, name="shop")',
    )
