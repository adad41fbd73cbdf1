"""A shared HTTP cache in memory (RFC 9111), decided without sockets and without a clock.

See `Edge` and its module for how an engine uses it, and `EdgeOptions` for what can be said.
"""

from tenfold.gateway.edge.decide import Action
from tenfold.gateway.edge.decision import Answer, Decision
from tenfold.gateway.edge.edge import Edge, EdgeStats
from tenfold.gateway.edge.filling import Filling
from tenfold.gateway.edge.flight import Follower, Turn
from tenfold.gateway.edge.message import Request, Response, fold, url_key
from tenfold.gateway.edge.options import EdgeOptions
from tenfold.gateway.edge.status import Fwd
from tenfold.gateway.edge.stored import Stored
from tenfold.gateway.edge.tags import TagPurge

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the edge
    "Edge",
    "EdgeOptions",
    "EdgeStats",
    "TagPurge",
    # what goes in
    "Request",
    "Response",
    "fold",
    "url_key",
    # what comes out
    "Action",
    "Answer",
    "Decision",
    "Filling",
    "Follower",
    "Fwd",
    "Stored",
    "Turn",
]
