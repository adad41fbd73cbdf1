"""Policies, caches, balancers, databases and outboxes for Prometheus: collectors that read plain counters at a scrape.

The other way round, a counter of ``prometheus_client`` per call, costs 0.5 µs to 2 µs each, more than a whole policy
does. So calls and hits count into integers of their own, and a scrape turns a snapshot of each into samples. A policy
that is gone takes its series with it; what a reload takes out does, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError
from tenfold.observe.balancers import Balances, balancer_group
from tenfold.observe.caches import Counts, cache_group
from tenfold.observe.databases import ShowsState, database_group
from tenfold.observe.outboxes import outbox_group
from tenfold.observe.policies import Shows, policy_groups
from tenfold.observe.table import Family, Group
from tenfold.resilience.registry import REGISTRY

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


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
        registry: Iterable[Shows] = REGISTRY,
        *,
        shedders: Iterable[Shows] = (),
        degradations: Iterable[Shows] = (),
        files: Iterable[Shows] = (),
    ) -> None:
        self._client: Final = _client("PoliciesCollector")
        self._groups: Final = policy_groups(registry, shedders, degradations, files)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        return _describe(self._client, self._groups)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        return _collect(self._client, self._groups)


class CachesCollector:
    """Shows caches to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(CachesCollector([cache]))

    ``caches`` may be any iterable that can be gone through again, such as a list that grows. Raises `MisuseError` where
    ``prometheus_client`` is not installed, and for two caches of one name.
    """

    def __init__(self, caches: Iterable[Counts]) -> None:
        self._client: Final = _client("CachesCollector")
        self._groups: Final = (cache_group(caches, "CachesCollector"),)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        return _describe(self._client, self._groups)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        return _collect(self._client, self._groups)


class BalancersCollector:
    """Shows balancers to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(BalancersCollector([balancer]))

    ``balancers`` may be any iterable that can be gone through again, such as a list that grows. Raises `MisuseError`
    where ``prometheus_client`` is not installed, and for two balancers of one name.
    """

    def __init__(self, balancers: Iterable[Balances]) -> None:
        self._client: Final = _client("BalancersCollector")
        self._groups: Final = (balancer_group(balancers, "BalancersCollector"),)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        return _describe(self._client, self._groups)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        return _collect(self._client, self._groups)


class DatabasesCollector:
    """Shows clusters (`create_async_cluster`) and sharded clusters to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(DatabasesCollector([cluster]))

    ``databases`` may be any iterable that can be gone through again, such as a list that grows. Raises `MisuseError`
    where ``prometheus_client`` is not installed, and for two databases of one name.
    """

    def __init__(self, databases: Iterable[ShowsState]) -> None:
        self._client: Final = _client("DatabasesCollector")
        self._groups: Final = (database_group(databases, "DatabasesCollector"),)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        return _describe(self._client, self._groups)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        return _collect(self._client, self._groups)


class OutboxesCollector:
    """Shows outboxes, by their dispatchers, to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(OutboxesCollector([dispatcher]))

    ``outboxes`` may be any iterable that can be gone through again, such as a list that grows. Raises `MisuseError`
    where ``prometheus_client`` is not installed, and for two outboxes of one name.
    """

    def __init__(self, outboxes: Iterable[ShowsState]) -> None:
        self._client: Final = _client("OutboxesCollector")
        self._groups: Final = (outbox_group(outboxes, "OutboxesCollector"),)

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        return _describe(self._client, self._groups)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        return _collect(self._client, self._groups)


def _describe(client: Any, groups: Iterable[Group]) -> Iterator[Metric]:
    for group in groups:
        for family in group.families:
            yield _metric(client, family, group.label)


def _collect(client: Any, groups: Iterable[Group]) -> Iterator[Metric]:
    for group in groups:
        owners = group.owners()
        for family in group.families:
            metric = _metric(client, family, group.label)
            for owner in owners:
                for values, value in family.read(owner.snapshot):
                    metric.add_metric((owner.name, *values), value)
            if metric.samples:
                yield metric


def _metric(client: Any, family: Family, label: str) -> Any:
    kind = client.CounterMetricFamily if family.kind == "counter" else client.GaugeMetricFamily
    return kind(family.prometheus, family.help, labels=(label, *family.labels))


def _client(reader: str) -> Any:
    try:
        from prometheus_client import core
    except ImportError as exc:
        raise MisuseError(
            f"{reader}: expected prometheus_client, which is not installed; say: pip install tenfold[observe]"
        ) from exc
    return core
