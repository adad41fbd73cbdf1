"""The how-to is true: each block of Python in it is a test file, and each name in it is one that is shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold
from tenfold.observe import balancers, caches
from tenfold.observe.policies import policy_groups
from tenfold.resilience.registry import Registry

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "metrics.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_the_how_to_passes(text, tmp_path):
    for needed in ("prometheus_client", "opentelemetry.sdk"):
        pytest.importorskip(needed, reason="one of the blocks shows it")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    tests = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
    assert len(blocks) == tests == 2
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


def test_the_table_of_the_how_to_is_that_of_the_readers(text):
    families = {family.name: family for family in (*caches.FAMILIES, *balancers.FAMILIES)}
    for group in policy_groups(Registry(), (), (), ()):
        families |= {family.name: family for family in group.families}
    rows = re.findall(r"^\| `(tenfold\.[\w.]+)` \| (?:`(.*?)` )?\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 6
    for name, unit, prometheus, attributes in rows:
        family = families[name]
        total = "_total" if family.kind == "counter" else ""
        assert (unit, prometheus) == (family.unit, family.prometheus + total)
        shown = re.findall(r"`(\w+)`", attributes.partition(":")[0])
        assert shown == [name.split(".")[1].replace("breaker", "policy"), *family.labels]
