"""What several kinds of proof share."""

from __future__ import annotations

import os
import secrets
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
