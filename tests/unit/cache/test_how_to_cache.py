"""The how-tos are true: each block of Python in them is a test file, run here as its reader would run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("prometheus_client", "fastapi", "httpx2"):
    pytest.importorskip(needed, reason="one of the blocks shows it")

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"


@pytest.mark.parametrize(("page", "least"), [("cache.md", 7), ("cache-http.md", 3)])
def test_every_block_of_the_how_to_passes(page, least, passes):
    assert passes((HOW_TO / page).read_text(encoding="utf-8")) >= least


def test_the_commands_of_the_how_to_exist():
    text = (HOW_TO / "cache.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"tenfold cache (\w+)", text))
    assert shown == {"stats", "explain", "clear", "warm"}
    done = subprocess.run(
        [sys.executable, "-m", "tenfold", "cache", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(f" {command} " in done.stdout for command in shown)
