"""The pages on `tenfold serve` are true: blocks of Python pass, command lines parse and make sense, links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

import tenfold.serve
from tenfold.cli import app
from tenfold.cli.serve import serve
from tenfold.gateway.admin import names

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("how-to/serve.md", "how-to/scale-out.md")


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def lines(page):
    """Each `tenfold serve` of the page's blocks and sentences, as words, without a redirection."""
    blocks = "\n".join(FENCED.findall(text(page))).replace("\\\n", " ")
    shown = [line for line in blocks.splitlines() if "tenfold serve " in line]
    shown += re.findall(r"`(tenfold serve [^`]+)`", FENCED.sub("", text(page)))
    return [shlex.split(line.partition("tenfold serve ")[2].partition(" > ")[0]) for line in shown]


SHOWN = [words for page in PAGES for words in lines(page)]


def test_lines_are_shown():
    assert [len(lines(page)) for page in PAGES] == [8, 4]


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_what_is_shown_can_be_served_or_exported(words, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(tenfold.serve, "run", lambda options, say: served.append(options) or 0)
    command, bound, _ = app.parse_args(["serve", *words], exit_on_error=False, print_error=False)
    assert command is serve
    assert command(*bound.args, **bound.kwargs) == 0
    if "--export" in words:
        assert served == []
        assert {each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)} >= {"Deployment", "Service"}
    else:
        (options,) = served
        assert options.admin.loopback == ("--admin-public" not in words)


def test_an_option_that_is_not_there_would_be_noticed():
    with pytest.raises(Exception, match="--admin-pubic"):
        app.parse_args(["serve", "shop:app", "--admin-pubic"], exit_on_error=False, print_error=False)


def test_the_options_of_the_tables_are_there():
    known = {"--" + name.replace("_", "-") for name in serve.__annotations__}
    assert set(re.findall(r"`[^`]*?(--[a-z][a-z0-9-]+)", text(PAGES[0]))) <= known


def test_the_metrics_of_the_page_are_those_of_the_reference():
    named = set(re.findall(r"tenfold_(?:serve_[a-z_]+|in_flight)", text(PAGES[0])))
    reference = (DOCS / "reference" / "gateway-admin.md").read_text(encoding="utf-8")
    assert named == set(re.findall(r"`(tenfold_(?:serve_[a-z_]+|in_flight))`", reference))
    assert names.SERVE == "tenfold_serve_"


def test_the_blocks_pass(passes):
    assert passes(text(PAGES[0])) == 4


def test_links_lead_somewhere():
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", text(PAGES[0])):
        path = (DOCS / PAGES[0]).parent / target
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}
