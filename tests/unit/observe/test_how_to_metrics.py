"""The how-to is true: each block of Python in it is a test file, and each name in it is one that is shown."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tenfold.observe import balancers, caches, databases, outboxes
from tenfold.observe.policies import policy_groups
from tenfold.resilience.registry import Registry

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "metrics.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_the_how_to_passes(text, passes):
    for needed in ("prometheus_client", "opentelemetry.sdk"):
        pytest.importorskip(needed, reason="one of the blocks shows it")
    assert passes(text) == 4


def test_the_table_of_the_how_to_is_that_of_the_readers(text):
    families = {
        family.name: family
        for family in (*caches.FAMILIES, *balancers.FAMILIES, *databases.FAMILIES, *outboxes.FAMILIES)
    }
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


def test_promtool_takes_the_rules(text, tmp_path):
    (rules,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    families = (*databases.FAMILIES, *outboxes.FAMILIES)
    shown = {family.prometheus + ("_total" if family.kind == "counter" else "") for family in families}
    assert set(re.findall(r"tenfold_(?:database|outbox)_\w+", rules)) <= shown
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus), so nobody has checked the rules")
    path = tmp_path / "rules.yaml"
    path.write_text(rules, encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 rules found" in done.stdout
