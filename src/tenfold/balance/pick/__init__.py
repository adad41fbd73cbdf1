"""The policies of choosing, a module each."""

from tenfold.balance.pick.aperture import Aperture
from tenfold.balance.pick.base import ANY, Draw, Pick, Reason, Request
from tenfold.balance.pick.ip_hash import IPHash
from tenfold.balance.pick.least_request import LeastRequest
from tenfold.balance.pick.maglev import Maglev
from tenfold.balance.pick.p2c import P2C
from tenfold.balance.pick.peak_ewma import PeakEWMA
from tenfold.balance.pick.rendezvous import Rendezvous
from tenfold.balance.pick.ring_hash import RingHash
from tenfold.balance.pick.round_robin import RoundRobin, WeightedRoundRobin
from tenfold.balance.pick.sticky import Sticky
from tenfold.balance.pick.weighted import Random, WeightedRandom
from tenfold.balance.pick.zone import Priority, ZoneAware

__all__ = [  # noqa: RUF022 - grouped by what they go by
    # what a policy is
    "ANY",
    "Draw",
    "Pick",
    "Reason",
    "Request",
    # turns
    "RoundRobin",
    "WeightedRoundRobin",
    # chance
    "Random",
    "WeightedRandom",
    # load
    "LeastRequest",
    "P2C",
    "PeakEWMA",
    # the same key, the same member
    "IPHash",
    "Maglev",
    "Rendezvous",
    "RingHash",
    "Sticky",
    # groups and subsets
    "Aperture",
    "Priority",
    "ZoneAware",
]
