"""Caches for Prometheus: a collector that reads plain counters when it is scraped.

As with policies, a hit adds to an integer and knows nothing of Prometheus. Each cache has one series, or one for each
level or outcome, and never one for a key, which callers control. Counters are those of one process: sum them over
processes, and a hit rate is a quotient of two rates::

    sum(rate(tenfold_cache_requests_total{outcome!="miss"}[5m])) / sum(rate(tenfold_cache_requests_total[5m]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Read = Callable[[Any], Iterable[tuple[tuple[str, ...], float]]]


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Read
    labels: tuple[str, ...] = ()


def _one(field: str) -> Read:
    """One number of the snapshot; none where this version does not count it."""
    return lambda stats: [((), float(getattr(stats, field)))] if hasattr(stats, field) else []


def _each(**fields: str) -> Read:
    """Several under one label: its value, and the field that it is read from."""
    return lambda stats: [((value,), float(getattr(stats, field))) for value, field in fields.items()]


FAMILIES: Final = (
    _Family(
        "tenfold_cache_requests",
        "counter",
        "Look-ups by what answered them: memory, level 2, a load already under way, or a load of their own.",
        _each(memory="hits", level2="l2_hits", coalesced="coalesced", miss="misses"),
        ("outcome",),
    ),
    _Family("tenfold_cache_loads", "counter", "Calls of loaders; one may load many keys.", _one("loads")),
    _Family("tenfold_cache_load_errors", "counter", "Calls of loaders that raised.", _one("load_errors")),
    _Family("tenfold_cache_load_seconds", "counter", "Time spent in loaders.", _one("load_seconds")),
    _Family(
        "tenfold_cache_refused",
        "counter",
        "Loaded values that met an invalidation during their load and were not kept.",
        _one("refused"),
    ),
    _Family("tenfold_cache_undecodable", "counter", "Values in level 2 that could not be read.", _one("undecodable")),
    _Family(
        "tenfold_cache_invalidations",
        "counter",
        "Invalidations by where they came from.",
        _each(here="invalidations", elsewhere="remote_invalidations"),
        ("source",),
    ),
    _Family(
        "tenfold_cache_pending_invalidations",
        "gauge",
        "Invalidations that wait for level 2 to come back; until then other processes may read old values.",
        _one("pending_invalidations"),
    ),
    _Family(
        "tenfold_cache_backplane_gaps",
        "counter",
        "Times that memory was dropped because invalidations may have been missed.",
        _one("backplane_gaps"),
    ),
    _Family("tenfold_cache_level2_up", "gauge", "1 while level 2 answers.", _one("l2_up")),
    _Family("tenfold_cache_level2_failures", "counter", "Times that level 2 did not answer.", _one("l2_failures")),
    _Family(
        "tenfold_cache_level2_skipped", "counter", "Requests not sent because level 2 was down.", _one("l2_skipped")
    ),
    _Family("tenfold_cache_entries", "gauge", "Entries in memory.", _one("entries")),
    _Family(
        "tenfold_cache_memory_bytes",
        "gauge",
        "Estimated size of the entries in memory; 0 without a bound in bytes.",
        _one("bytes"),
    ),
    _Family(
        "tenfold_cache_removals",
        "counter",
        "Entries that left memory by themselves, by reason.",
        _each(evicted="evictions", expired="expirations"),
        ("reason",),
    ),
)


class _Counts(Protocol):
    """A cache: it has a name and makes snapshots."""

    @property
    def name(self) -> str: ...

    def stats(self) -> Any: ...


class CachesCollector:
    """Shows caches to Prometheus::

        from prometheus_client import REGISTRY
        REGISTRY.register(CachesCollector([cache]))

    ``caches`` may be any iterable that can be gone through again, such as a list that grows. Raises `MisuseError` where
    ``prometheus_client`` is not installed, and for two caches of one name.
    """

    def __init__(self, caches: Iterable[_Counts]) -> None:
        _client()
        if isinstance(caches, Iterator):
            raise MisuseError(
                "CachesCollector: expected a list of caches, got an iterator, which ends at the first scrape"
            )
        self._caches: Final = caches
        self._checked()

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering finds names that are taken."""
        for family in FAMILIES:
            yield _metric(family)

    def collect(self) -> Iterator[Metric]:
        """What Prometheus asks for at each scrape."""
        snapshots = [(cache.name, cache.stats()) for cache in self._checked()]
        for family in FAMILIES:
            metric = _metric(family)
            for name, stats in snapshots:
                for values, value in family.read(stats):
                    metric.add_metric((name, *values), value)
            if metric.samples:
                yield metric

    def _checked(self) -> list[_Counts]:
        caches = list(self._caches)
        names = [cache.name for cache in caches]
        if twice := {name for name in names if names.count(name) > 1}:
            raise MisuseError(
                f"CachesCollector: expected a name for each cache, got {min(twice)!r} twice; "
                "their series could not be told apart"
            )
        return caches


def _metric(family: _Family) -> Any:
    client = _client()
    kind = client.CounterMetricFamily if family.kind == "counter" else client.GaugeMetricFamily
    return kind(family.name, family.help, labels=("cache", *family.labels))


def _client() -> Any:
    try:
        from prometheus_client import core
    except ImportError as exc:
        raise MisuseError(
            "CachesCollector: expected prometheus_client, which is not installed; say: pip install tenfold[observe]"
        ) from exc
    return core
