"""What outboxes show: the `state()` of their dispatchers as metrics.

A dispatcher counts what it delivers itself, and for each shard one dispatcher of all processes leads: so sum the
counters over processes, and take the maximum of what is said of a shard. Worth an alert::

    max by (outbox, shard) (tenfold_outbox_leads) == 0                  # nobody delivers a shard's messages
    max by (outbox, shard) (tenfold_outbox_lag_seconds) > 60            # they wait too long
    increase(tenfold_outbox_dead_total[1h]) > 0                         # laid aside: somebody must look
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tenfold.observe.databases import ShowsState
from tenfold.observe.table import Family, Group, Read, Sample, at, group_of


def _by_shard(key: str) -> Read:
    def read(state: Mapping[str, Any]) -> Iterable[Sample]:
        return [((shard,), float(value)) for shard, value in state.get(key, {}).items()]

    return read


FAMILIES: Final = (
    Family(
        "tenfold.outbox.delivered",
        "{message}",
        "counter",
        "Messages that their receivers have taken, each once in effect.",
        at("delivered"),
    ),
    Family(
        "tenfold.outbox.duplicates",
        "{message}",
        "counter",
        "Deliveries that had happened already; the inbox dropped them.",
        at("duplicates"),
    ),
    Family(
        "tenfold.outbox.failed",
        "{delivery}",
        "counter",
        "Deliveries that failed; they are tried again.",
        at("failed"),
    ),
    Family(
        "tenfold.outbox.suspects",
        "{message}",
        "counter",
        "Messages in hand of a dispatcher that was killed or cut off; delivered one by one.",
        at("suspects"),
    ),
    Family(
        "tenfold.outbox.dead",
        "{message}",
        "counter",
        "Messages laid aside after their last try.",
        at("dead"),
    ),
    Family(
        "tenfold.outbox.moved",
        "{message}",
        "counter",
        "Messages put back because their key had moved to another shard meanwhile.",
        at("moved"),
    ),
    Family(
        "tenfold.outbox.interrupted",
        "{loss}",
        "counter",
        "Times that a shard was lost and looked for anew.",
        at("interrupted"),
    ),
    Family(
        "tenfold.outbox.leads",
        "",
        "gauge",
        "1 for the shards whose messages this dispatcher delivers.",
        _by_shard("leads"),
        ("shard",),
    ),
    Family(
        "tenfold.outbox.lag",
        "s",
        "gauge",
        "How long the oldest message that is due on a shard has waited; of shards where this dispatcher leads.",
        _by_shard("lag"),
        ("shard",),
    ),
)


def outbox_group(outboxes: Iterable[ShowsState], reader: str) -> Group:
    """What there is to show of ``outboxes``, which may grow. Raises `MisuseError`, in the name of ``reader``."""
    return group_of(
        "outbox",
        FAMILIES,
        outboxes,
        lambda outbox: outbox.state(),
        reader,
        'give them names: Dispatcher(…, name="orders")',
    )
