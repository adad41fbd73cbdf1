"""The pages on scaling are true: their blocks of Python pass, and the picture and the tables are what comes out."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from tenfold._core.errors import MisuseError
from tenfold.cli._plan_results import objectives_of
from tenfold.cli._serve_export import Use
from tenfold.cli.plan import plan
from tenfold.simulate.scaling_report import rows

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("how-to/scale-out.md", "concepts/autoscaling.md")


@pytest.fixture(scope="module")
def script():
    path = DOCS / "concepts" / "pictures" / "scaling" / "draw.py"
    spec = importlib.util.spec_from_file_location("scaling_picture", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.fixture(scope="module")
def result(script):
    return script.run()


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_blocks_pass(passes):
    assert passes("\n".join(map(text, PAGES))) == 9


def test_the_picture_and_its_table_come_out_the_same_again(script, result):
    drawn = script.draw(result)
    assert drawn == (DOCS / "concepts" / "pictures" / "scaling" / "step.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    lines = text(PAGES[1]).splitlines()
    assert [script.row(one) for one in result.policies if script.row(one) not in lines] == []


def test_the_table_of_the_simulator_is_what_it_prints(result):
    shown = [
        line.split() for line in text("how-to/simulate.md").splitlines() if re.match(r" (local|kuber|keda|azure)", line)
    ]
    assert shown == [" ".join(row).split() for row in rows(result)]


def test_the_options_of_the_commands_shown_are_there():
    shown = re.findall(r"tenfold plan (?:[^\n\\]|\\\n)*", text(PAGES[0]))
    assert len(shown) == 1
    known = {"--rate", "--slo", "--from", "--database-time", "--max-connections", "--reads", "--replica-rate"}
    assert set(re.findall(r"--[a-z-]+", shown[0])) == known
    assert {"--" + name.replace("_", "-") for name in plan.__annotations__} >= known - {"--from"}
    assert objectives_of(re.search(r'--slo "([^"]+)"', shown[0])[1])


def test_the_file_of_measured_use_can_be_read():
    (block,) = re.findall(r"^```json\n(.*?)^```$", text(PAGES[0]), re.MULTILINE | re.DOTALL)
    assert msgspec.json.decode(block, type=Use) == Use(cpu=0.31, memory="95MB", response_time="50ms")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", text(page)):
        path = (DOCS / page).parent / target
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_no_such_plan_is_a_sentence():
    with pytest.raises(MisuseError):
        objectives_of("p95")
