"""What caches show: their `stats()` as metrics.

Each cache has one series, or one for each level or outcome, and never one for a key, which callers control. Counters
are those of one process: sum them over processes, and a hit rate is a quotient of two rates::

    sum(rate(tenfold_cache_requests_total{outcome!="miss"}[5m])) / sum(rate(tenfold_cache_requests_total[5m]))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final, Protocol

from tenfold.observe.table import Family, Group, at, each, group_of

FAMILIES: Final = (
    Family(
        "tenfold.cache.requests",
        "{request}",
        "counter",
        "Look-ups by what answered them: memory, memory with a value past its TTL, level 2, a load already under way, "
        "or a load of their own.",
        each("", memory="hits", stale="stale_hits", level2="l2_hits", coalesced="coalesced", miss="misses"),
        ("outcome",),
    ),
    Family("tenfold.cache.loads", "{load}", "counter", "Calls of loaders; one may load many keys.", at("loads")),
    Family("tenfold.cache.load_errors", "{load}", "counter", "Calls of loaders that raised.", at("load_errors")),
    Family("tenfold.cache.load", "s", "counter", "Time spent in loaders.", at("load_seconds")),
    Family(
        "tenfold.cache.load_timeouts", "{load}", "counter", "Loads stopped at the hard time-out.", at("load_timeouts")
    ),
    Family(
        "tenfold.cache.stale_rescues",
        "{request}",
        "counter",
        "Look-ups answered with a value past its TTL because their load was slow or failed.",
        at("stale_rescues"),
    ),
    Family("tenfold.cache.refreshes", "{load}", "counter", "Loads in the background.", at("refreshes")),
    Family(
        "tenfold.cache.refresh_errors",
        "{load}",
        "counter",
        "Loads in the background that failed.",
        at("refresh_errors"),
    ),
    Family(
        "tenfold.cache.refreshes_skipped",
        "{load}",
        "counter",
        "Loads in the background not begun because too many were under way.",
        at("refreshes_skipped"),
    ),
    Family(
        "tenfold.cache.refused",
        "{value}",
        "counter",
        "Loaded values that met an invalidation during their load and were not kept.",
        at("refused"),
    ),
    Family(
        "tenfold.cache.undecodable",
        "{value}",
        "counter",
        "Values in level 2 that could not be read.",
        at("undecodable"),
    ),
    Family(
        "tenfold.cache.invalidations",
        "{invalidation}",
        "counter",
        "Invalidations by where they came from.",
        each("", here="invalidations", elsewhere="remote_invalidations"),
        ("source",),
    ),
    Family(
        "tenfold.cache.pending_invalidations",
        "{invalidation}",
        "gauge",
        "Invalidations that wait for level 2 to come back; until then other processes may read old values.",
        at("pending_invalidations"),
    ),
    Family(
        "tenfold.cache.backplane_gaps",
        "{gap}",
        "counter",
        "Times that memory was dropped because invalidations may have been missed.",
        at("backplane_gaps"),
    ),
    Family("tenfold.cache.level2_up", "", "gauge", "1 while level 2 answers.", at("l2_up")),
    Family(
        "tenfold.cache.level2_failures", "{failure}", "counter", "Times that level 2 did not answer.", at("l2_failures")
    ),
    Family(
        "tenfold.cache.level2_skipped",
        "{request}",
        "counter",
        "Requests not sent because level 2 was down.",
        at("l2_skipped"),
    ),
    Family(
        "tenfold.cache.level2_packets",
        "{packet}",
        "counter",
        "Packets that level 2 answered; what is asked for in one turn of the event loop is one.",
        at("l2_packets"),
    ),
    Family("tenfold.cache.level2_wait", "s", "counter", "Time until level 2 had answered.", at("l2_seconds")),
    Family("tenfold.cache.entries", "{entry}", "gauge", "Entries in memory.", at("entries")),
    Family(
        "tenfold.cache.memory",
        "By",
        "gauge",
        "Estimated size of the entries in memory; 0 without a bound in bytes.",
        at("bytes"),
    ),
    Family(
        "tenfold.cache.removals",
        "{entry}",
        "counter",
        "Entries that left memory by themselves, by reason.",
        each("", evicted="evictions", expired="expirations"),
        ("reason",),
    ),
)


class Counts(Protocol):
    """A cache: it has a name and makes snapshots."""

    @property
    def name(self) -> str: ...

    def stats(self) -> Any: ...


def cache_group(caches: Iterable[Counts], reader: str) -> Group:
    """What there is to show of ``caches``, which may grow. Raises `MisuseError`, in the name of ``reader``."""
    return group_of("cache", FAMILIES, caches, lambda cache: asdict(cache.stats()), reader)
