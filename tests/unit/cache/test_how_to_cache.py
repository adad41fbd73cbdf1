"""The how-tos are true: each block of Python in them is a test file, run here as its reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold

for needed in ("prometheus_client", "fastapi", "httpx2"):
    pytest.importorskip(needed, reason="one of the blocks shows it")

HOW_TO = Path(__file__).parents[3] / "docs" / "how-to"


@pytest.mark.parametrize(("page", "least"), [("cache.md", 7), ("cache-http.md", 3)])
def test_every_block_of_the_how_to_passes(page, least, tmp_path):
    text = (HOW_TO / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= least
    tests = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
    assert tests >= least
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
        env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


def test_the_commands_of_the_how_to_exist():
    text = (HOW_TO / "cache.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"tenfold cache (\w+)", text))
    assert shown == {"stats", "explain", "clear", "warm"}
    done = subprocess.run(
        [sys.executable, "-m", "tenfold", "cache", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(f" {command} " in done.stdout for command in shown)
