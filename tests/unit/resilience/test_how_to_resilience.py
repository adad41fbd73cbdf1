"""The how-to is true: each block of Python in it is a test file, run here as its reader would run it."""

import re
from pathlib import Path

import pytest

from tenfold.resilience.config import load_policies
from tenfold.resilience.registry import Registry

pytest.importorskip("prometheus_client", reason="one of the blocks shows it")

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "resilience.md"


def test_every_block_of_the_how_to_passes(passes):
    assert passes(PAGE.read_text(encoding="utf-8")) >= 8


def test_the_file_of_the_how_to_loads(tmp_path):
    (block,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "policies.toml").write_text(block, encoding="utf-8")
    policies = load_policies(tmp_path / "policies.toml", registry=Registry())
    assert list(policies) == ["payments", "search"]
    assert policies["payments"].options.bulkhead.queue == 100
