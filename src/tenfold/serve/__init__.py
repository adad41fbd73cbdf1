"""``tenfold serve``: any ASGI app in worker processes behind the gateway, scaled by what the gateway measures.

::

    from tenfold.serve import ServeOptions, run

    run(ServeOptions(app="shop.main:app", workers="2..8"), print)

Composes `tenfold.gateway` (embedded) and `tenfold.autoscale` (policy and fleet), which do not know each other.
Importing it loads both, and neither httptools nor uvloop.
"""

from tenfold.serve.happenings import DrainCutShort, Restarted, SourceChanged, WarmingFailed
from tenfold.serve.options import ServeOptions, schedule
from tenfold.serve.run import ServeError, run

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # what is wanted
    "ServeOptions",
    "schedule",
    # doing it
    "run",
    "ServeError",
    # what happens
    "DrainCutShort",
    "Restarted",
    "SourceChanged",
    "WarmingFailed",
]
