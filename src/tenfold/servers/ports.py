"""Free ports on loopback."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

from tenfold.servers.errors import ServersError

HOST: Final = "127.0.0.1"
_LOWEST: Final = 15_000
_ATTEMPTS: Final = 200
_RANDOM: Final = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now. It may be lost before it is used: callers try again.

    It lies below the range from which the system takes the ports of outgoing connections. In that range a
    client that keeps knocking at a killed server can be given the server's own port, connect to itself, and
    keep the server from ever coming back.
    """
    top = _ephemeral_low()
    if top - _LOWEST < 1000:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return int(probe.getsockname()[1])
    for _ in range(_ATTEMPTS):
        port = _RANDOM.randrange(_LOWEST, top)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServersError(
        f"expected a free port between {_LOWEST} and {top} on {HOST}, {_ATTEMPTS} tries found none: end what listens there"
    )


def _ephemeral_low() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768  # The default of Linux, and below that of macOS (49152).
