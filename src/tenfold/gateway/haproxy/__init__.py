"""The engine that is an HAProxy: rendered configuration, a process, and commands at run time."""

from tenfold.gateway.haproxy.binary import HAProxyError, find_binary
from tenfold.gateway.haproxy.engine import HAProxyGateway
from tenfold.gateway.haproxy.render import render

__all__ = ["HAProxyError", "HAProxyGateway", "find_binary", "render"]
