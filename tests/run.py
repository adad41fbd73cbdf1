"""Run the tests in two lanes side by side: what waits for real servers, and what computes, at a lower priority.

The servers' tests mostly wait, so the other lane takes what they leave; at the end it takes a share of the servers'
tests too, for the two to end together. Beside another lane a time limit may be missed that is kept otherwise. So tests
on servers that fail, if they are few, run once more when all else is over, and only a second failure counts. Each of
the first is told at the end all the same: a test that needs it twice has a fault, or the code has.

Arguments go to pytest as they are, for one process, once they name files, folders or tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache"
NICER = 10
FEW = 3
NO_TESTS = 5


@dataclass(slots=True)
class Part:
    """One process of pytest."""

    name: str
    folders: tuple[str, ...]
    without: tuple[str, ...] = ()
    niced: bool = False
    again: bool = True
    code: int = -1
    failed: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return CACHE / self.name

    def run(self, arguments: list[str], told: IO[str] | None) -> None:
        """Run it; its output goes to ``told``, or where ours goes."""
        shutil.rmtree(self.cache, ignore_errors=True)
        command = [*pytest(self.cache), *arguments, *(f"--ignore={each}" for each in self.without), *self.folders]
        if self.niced:
            command = ["nice", "-n", str(NICER), *command]
        self.code = subprocess.run(command, stdout=told, stderr=told and subprocess.STDOUT, check=False).returncode
        found = self.cache / "v" / "cache" / "lastfailed"
        self.failed = sorted(json.loads(found.read_text())) if found.exists() else []


def pytest(cache: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}"]


def together(arguments: list[str]) -> list[Part]:
    """Both lanes, to their ends. The second one's output comes when the first is done."""
    beside = tuple(
        f"tests/{each}" for each in ("integration/cache", "fault/cache", "fault/db", "fault/serve", "integration/serve")
    )
    first = Part("servers", ("tests/integration", "tests/fault", "tests/browser"), without=beside)
    computing = Part(
        "computing", ("tests/unit", "tests/property", "tests/architecture", "tests/typing"), niced=True, again=False
    )
    second = [computing, Part("more servers", beside)]
    with tempfile.TemporaryFile("w+") as told:

        def lane() -> None:
            for part in second:
                part.run(arguments, told)

        other = threading.Thread(target=lane)
        other.start()
        first.run(arguments, None)
        other.join()
        told.seek(0)
        print(told.read(), flush=True)
    return [first, *second]


def once_more(part: Part, arguments: list[str]) -> None:
    """Run what failed by itself, and let that decide."""
    print(f"\n{part.name}: {len(part.failed)} failed beside the other lane; once more, alone:", flush=True)
    command = [*pytest(CACHE / "again"), *arguments, *part.failed]
    part.code = subprocess.run(command, check=False).returncode


def main(arguments: list[str]) -> int:
    if any(os.path.exists(each.partition("::")[0]) for each in arguments) or "-k" in arguments:
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    began = time.monotonic()
    parts = together(arguments)
    twice: list[str] = []
    for part in parts:
        if part.code == 1 and part.again and 0 < len(part.failed) <= FEW:
            twice += part.failed
            once_more(part, arguments)
    print()
    for each in twice:
        print(f"WARNING: failed beside the other lane: {each}")
    for part in parts:
        print(f"{part.name}: exit code {part.code}")
    print(f"{time.monotonic() - began:.0f} s")
    return max((part.code for part in parts if part.code != NO_TESTS), default=NO_TESTS, key=abs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
