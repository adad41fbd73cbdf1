"""The configuration of a gateway: a TOML file, read, judged, compared and routed by. No sockets."""

from __future__ import annotations

from tenfold.gateway.config.address import Address
from tenfold.gateway.config.canary import Choice, choose
from tenfold.gateway.config.config import Config, write_config
from tenfold.gateway.config.diff import Changes, PoolChange, RouteChange, Setting, diff
from tenfold.gateway.config.engines import CAPABILITIES, Capability, engines_table
from tenfold.gateway.config.environment import Secret
from tenfold.gateway.config.options import AccessLog, Admin, Certificate, Edge, Engine, Gateway
from tenfold.gateway.config.picks import PickSpec
from tenfold.gateway.config.pool import Pool, UpstreamTls
from tenfold.gateway.config.problems import GatewayConfigError, Problem
from tenfold.gateway.config.read import load_config, read_config
from tenfold.gateway.config.route import Router
from tenfold.gateway.config.rule import Canary, HeaderChanges, Redirect, Respond, Route
from tenfold.gateway.config.sources import Source
from tenfold.gateway.config.watched import ConfigFile

__all__ = [  # noqa: RUF022 - grouped
    # a file
    "Config",
    "ConfigFile",
    "GatewayConfigError",
    "Problem",
    "load_config",
    "read_config",
    "write_config",
    # what stands in it
    "AccessLog",
    "Address",
    "Admin",
    "Canary",
    "Certificate",
    "Edge",
    "Engine",
    "Gateway",
    "HeaderChanges",
    "PickSpec",
    "Pool",
    "Redirect",
    "Respond",
    "Route",
    "Secret",
    "Source",
    "UpstreamTls",
    # routing by it
    "Choice",
    "Router",
    "choose",
    # what is different
    "Changes",
    "PoolChange",
    "RouteChange",
    "Setting",
    "diff",
    # who can do it
    "CAPABILITIES",
    "Capability",
    "engines_table",
]
