"""What several kinds of proof share."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# `make test` tries the same examples every time, so that a red run means a change; `make fuzz` tries others.
settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile(os.environ.get("TENFOLD_HYPOTHESIS", "fixed"))

MARK = "TENFOLD_TEST_MARK"


@pytest.fixture
def marked() -> tuple[dict[str, str], Callable[[], list[str]]]:
    """An environment for a child, and a function that names every living process that inherited it."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see which processes are left behind")
    value = f"{MARK}={secrets.token_hex(8)}"

    def living() -> list[str]:
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if value.encode() in (folder / "environ").read_bytes().split(b"\0"):
                        found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # it ended while we looked, or is another user's
        return found

    return {**os.environ, "PYTHONUNBUFFERED": "1", MARK: value.partition("=")[2]}, living


@pytest.fixture
def passes(tmp_path: Path) -> Callable[[str], int]:
    """A function that runs each block of Python in a page as the test file that it is, and says how many tests passed,
    which were all there are.
    """

    def run(page: str) -> int:
        blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        tests = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
        for number, block in enumerate(blocks):
            (tmp_path / f"test_block_{number}.py").write_text(block, encoding="utf-8")
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n",
            encoding="utf-8",
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")},
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{tests} passed" in done.stdout
        return tests

    return run
