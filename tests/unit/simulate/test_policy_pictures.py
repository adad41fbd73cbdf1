"""The pictures of `docs/concepts/choosing-a-policy.md` are what the simulator draws, and the page shows them all."""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

CONCEPTS = Path(__file__).parents[3] / "docs" / "concepts"
PICTURES = CONCEPTS / "pictures"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("policy_pictures", PICTURES / "draw.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.fixture(scope="module")
def page():
    return (CONCEPTS / "choosing-a-policy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["p2c", "sticky"])
def test_a_picture_and_its_row_come_out_the_same_again(script, page, label):
    result, book = script.run(label)
    assert script.draw(result, book) == (PICTURES / f"{label}.svg").read_text(encoding="utf-8")
    assert script.row(result) in page.splitlines()
    # All requests were sent to one of the ten at least once, and every one is over when the picture ends or after it.
    assert sum(map(sum, book.sent.values())) == result.arrived + result.retries
    assert all(sum(book.sent[server.id]) >= server.answered for server in result.servers)


def test_every_policy_has_its_picture_on_the_page(script, page):
    shown = re.findall(r"^!\[.+\]\(pictures/(\w+)\.svg\)$", page, re.MULTILINE)
    assert sorted(shown) == sorted(script.policies()) == sorted(path.stem for path in PICTURES.glob("*.svg"))
    rows = re.findall(r"^\| `(\w+)` \| [\d.]+ ms \|", page, re.MULTILINE)
    assert rows == list(script.policies())


def test_pictures_are_small_whole_and_ask_for_nothing_from_elsewhere():
    for path in PICTURES.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert 3_000 < len(text.encode()) < 15_000, path.name
        assert "prefers-color-scheme:dark" in text
        assert not re.search(r"href|url\(|@import|@font-face|<script", text)
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert path.stem in root.get("aria-label")
