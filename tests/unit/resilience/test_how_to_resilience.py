"""The how-to is true: each block of Python in it is a test file, run here as its reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold
from tenfold.resilience.config import load_policies
from tenfold.resilience.registry import Registry

pytest.importorskip("prometheus_client", reason="one of the blocks shows it")

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "resilience.md"


def test_every_block_of_the_how_to_passes(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
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
        env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


def test_the_file_of_the_how_to_loads(tmp_path):
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "policies.toml").write_text(block, encoding="utf-8")
    policies = load_policies(tmp_path / "policies.toml", registry=Registry())
    assert list(policies) == ["payments", "search"]
    assert policies["payments"].options.bulkhead.queue == 100
