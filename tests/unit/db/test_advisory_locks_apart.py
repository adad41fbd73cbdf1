"""A tool that holds its locks for hours must not be taken for somebody who is just making tables."""

from __future__ import annotations

import re

from tenfold.db.reshard import links
from tenfold.db.shards import decisions, lease, outbox, store


def test_no_two_parts_of_the_layer_mean_the_same_lock() -> None:
    makers = [module._CREATE[0] for module in (store, lease, outbox, decisions)]
    taken = [int(found[1]) for text in makers if (found := re.search(r"lock\((\d+)\)", text))]
    taken += [links._LOCK, links._HOME_LOCK]
    assert len(taken) == 6
    assert len(set(taken)) == 6
