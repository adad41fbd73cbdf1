"""What HAProxy itself says of a configuration, without running it."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Config
from tenfold.gateway.haproxy.binary import HAProxyError, check_file, find_binary
from tenfold.gateway.haproxy.render import Place, render
from tenfold.gateway.haproxy.secrets import secret, write_certificates


def judge(config: Config) -> str:
    """Why HAProxy refuses it, ``""`` where it does not, or where there is no HAProxy to ask. Blocks.

    Discovered pools are taken as empty; nothing is listened to.
    """
    try:
        binary = find_binary(config.engine.binary)
    except MisuseError:
        return ""
    sockets = [socket.socket() for _ in config.gateway.listen]
    try:
        with tempfile.TemporaryDirectory(prefix="tenfold-haproxy-") as directory:
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            numbers = tuple(each.fileno() for each in sockets)
            endpoints = {pool.name: pool.endpoints for pool in config.pools}
            try:
                write_certificates(config, directory)
                path = str(Path(directory, "haproxy.cfg"))
                secret(path, render(config, endpoints, {}, Place(directory, numbers)))
                check_file(binary, path, numbers)
            except (HAProxyError, OSError) as exc:
                return str(exc)
    finally:
        for each in sockets:
            each.close()
    return ""
