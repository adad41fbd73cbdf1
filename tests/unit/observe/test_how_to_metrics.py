"""The how-to is true: each block of Python in it is a test file, and each name in it is one that is shown."""

import re
from pathlib import Path

import pytest

from tenfold.observe import balancers, caches
from tenfold.observe.policies import policy_groups
from tenfold.resilience.registry import Registry

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "metrics.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_the_how_to_passes(text, passes):
    for needed in ("prometheus_client", "opentelemetry.sdk"):
        pytest.importorskip(needed, reason="one of the blocks shows it")
    assert passes(text) == 2


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
