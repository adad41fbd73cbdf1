"""Balancing over endpoints: policies of choosing, health, ejection, failover and client transports.

::

    import httpx2
    from tenfold.balance import Balancer, BalancedTransport, Endpoint, HttpCheck, OutlierEjection

    balancer = Balancer(
        [Endpoint("a", "http://10.0.0.1:8000"), Endpoint("b", "http://10.0.0.2:8000", weight=2)],
        check=HttpCheck("/health"),
        eject=OutlierEjection(),
    )
    async with balancer, httpx2.AsyncClient(transport=BalancedTransport(balancer)) as client:
        await client.get("http://shop/products/7")
"""

from tenfold._core.errors import MisuseError
from tenfold.balance.agent import AgentLoad
from tenfold.balance.balancer import Balancer
from tenfold.balance.checks import Check, FunctionCheck, HttpCheck, TcpCheck, Verdict
from tenfold.balance.discovery import Discovery, FromCallable, FromDNS, FromFile, FromKubernetes, FromList
from tenfold.balance.endpoint import Endpoint, Member
from tenfold.balance.errors import BalanceError, DiscoveryTimeout, NoEndpoint, NotSent, tried_of
from tenfold.balance.happenings import (
    DiscoveryFailed,
    EndpointDown,
    EndpointEjected,
    EndpointReturned,
    EndpointUp,
    MembersChanged,
)
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.pick import (
    ANY,
    P2C,
    Aperture,
    IPHash,
    LeastRequest,
    Maglev,
    PeakEWMA,
    Pick,
    Priority,
    Random,
    Reason,
    Rendezvous,
    Request,
    RingHash,
    RoundRobin,
    Sticky,
    WeightedRandom,
    WeightedRoundRobin,
    ZoneAware,
)
from tenfold.balance.slow_start import SlowStart
from tenfold.balance.ticket import Ticket
from tenfold.balance.transports import BalancedSyncTransport, BalancedTransport, RetryRules
from tenfold.balance.turns import DrainEnded, DrainStarted, PanicEnded, PanicStarted

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # the balancer
    "Balancer",
    "Endpoint",
    "Ticket",
    "Request",
    "ANY",
    # picks
    "Pick",
    "Member",
    "Reason",
    "RoundRobin",
    "WeightedRoundRobin",
    "Random",
    "WeightedRandom",
    "LeastRequest",
    "P2C",
    "PeakEWMA",
    "RingHash",
    "Maglev",
    "Rendezvous",
    "IPHash",
    "Sticky",
    "ZoneAware",
    "Priority",
    "Aperture",
    # health
    "Check",
    "HttpCheck",
    "TcpCheck",
    "FunctionCheck",
    "Verdict",
    "OutlierEjection",
    "SlowStart",
    "AgentLoad",
    # discovery
    "Discovery",
    "FromList",
    "FromFile",
    "FromDNS",
    "FromKubernetes",
    "FromCallable",
    # clients
    "BalancedTransport",
    "BalancedSyncTransport",
    "RetryRules",
    # errors
    "BalanceError",
    "NoEndpoint",
    "NotSent",
    "DiscoveryTimeout",
    "tried_of",
    "MisuseError",
    # events
    "MembersChanged",
    "EndpointUp",
    "EndpointDown",
    "EndpointEjected",
    "EndpointReturned",
    "DiscoveryFailed",
    "PanicStarted",
    "PanicEnded",
    "DrainStarted",
    "DrainEnded",
]
