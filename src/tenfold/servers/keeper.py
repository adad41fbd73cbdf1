"""The keeper:

waits for a run's owner to die and then destroys the run. Started by `tenfold.servers.run`, see there.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tenfold.servers.process import ProcessId, alive
from tenfold.servers.run import destroy, read_manifest

_LOOK = 1.0


def main(arguments: Sequence[str]) -> None:
    """``FOLDER PID STARTED``.

    Ends when the folder is gone, when the run was released, or after having destroyed it.
    """
    folder, owner = Path(arguments[0]), ProcessId(int(arguments[1]), arguments[2])
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while alive(owner):
        if not folder.exists():
            return
        _wait_for_end(owner.pid)
    manifest = read_manifest(folder)
    if manifest is None or manifest["owner"] != {"pid": owner.pid, "started": owner.started}:
        return
    destroy(folder)


def _wait_for_end(pid: int) -> None:
    """Return at once when the process ends, and after a second in any case."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not Linux, or a kernel before 5.3
        time.sleep(_LOOK)
        return
    try:
        select.select([descriptor], [], [], _LOOK)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
