"""Run the tests in two processes: those on real servers, which mostly wait, and beside them, at a lower priority, those
that only compute. The first are as undisturbed as they would be alone, and the second take what they leave.

Arguments go to pytest as they are, for one process, once they name files, folders or tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

COMPUTING = ("tests/unit", "tests/property", "tests/architecture", "tests/typing")
WAITING = ("tests/integration", "tests/fault", "tests/browser")
NICER = 10


def main(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pytest"]
    if any(os.path.exists(each.partition("::")[0]) for each in arguments) or "-k" in arguments:
        return subprocess.run([*command, *arguments], check=False).returncode
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        computing = subprocess.Popen(
            ["nice", "-n", str(NICER), *command, "-o", "cache_dir=.pytest_cache/computing", *arguments, *COMPUTING],
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        try:
            waiting = subprocess.run([*command, *arguments, *WAITING], check=False).returncode
            code = computing.wait()
        finally:
            if computing.poll() is None:
                computing.terminate()
                computing.wait(30)
        told.seek(0)
        print(told.read(), flush=True)
    print(f"{' '.join(WAITING)}: exit code {waiting}; {' '.join(COMPUTING)}: exit code {code}; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    return waiting or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
