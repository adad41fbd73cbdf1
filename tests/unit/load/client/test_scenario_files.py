"""What a scenario file may say, and the sentence it gets for anything else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load import Scenario, check, load_scenario, step
from tenfold.load.scenario import is_loopback

HEAD = "from tenfold.load import journey, step, target, check, feed\n"
JOURNEY = "@journey\nasync def a(user): ...\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        path = tmp_path / "sc.py"
        path.write_text(text)
        return path

    return make


def test_a_good_file(write: Callable[[str], Path]) -> None:
    path = write(
        HEAD
        + "target('http://127.0.0.1:8000/', 'https://shop.test')\n"
        + JOURNEY
        + "@journey(weight=3, name='b b')\nasync def b(user): ...\n"
    )
    scenario = load_scenario(path)
    assert scenario.target == "http://127.0.0.1:8000"
    assert [(j.name, j.weight) for j in scenario.journeys] == [("a", 1.0), ("b b", 3.0)]
    assert scenario.allows("https://shop.test/x")
    assert scenario.allows("http://localhost:1")
    assert not scenario.allows("http://shop.test.evil/")
    assert repr(scenario) == "Scenario('sc', 2 journeys, target='http://127.0.0.1:8000')"
    assert scenario.at("https://shop.test").target == "https://shop.test"
    assert load_scenario(path, "http://127.0.0.1:9").target == "http://127.0.0.1:9"


def test_a_module_by_name_and_as_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mod_scenario.py").write_text(HEAD + "target('http://[::1]:8000')\n" + JOURNEY)
    monkeypatch.syspath_prepend(str(tmp_path))
    scenario = load_scenario("mod_scenario")
    assert isinstance(scenario, Scenario)
    assert not scenario.is_file
    assert load_scenario(sys.modules["mod_scenario"]) == scenario
    sys.modules.pop("mod_scenario")


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (HEAD + "target('http://127.0.0.1')\n\ndef broken(:\n", 4, "syntax error"),
        (HEAD + "target('http://127.0.0.1')\n", 1, "expected at least one @journey"),
        (HEAD + JOURNEY, 1, "expected target("),
        (HEAD + "\n@journey(weight=0)\nasync def a(user): ...\n", 3, "expected a weight above 0, got 0"),
        (HEAD + "\n@journey(weight='x')\nasync def a(user): ...\n", 3, "expected a weight above 0, got 'x'"),
        (HEAD + "@journey\ndef a(user): ...\n", 2, "expected an async def"),
        (HEAD + "@journey\nasync def a(): ...\n", 2, "expected one argument"),
        (HEAD + "target('ftp://x')\n", 2, "expected a URL"),
        (HEAD + "target('http://127.0.0.1:99999')\n", 2, "expected a URL"),
        (HEAD + "\nx = 1 / 0\n", 3, "ZeroDivisionError at import"),
        (HEAD + "import nothing_of_that_name\n", 2, "ModuleNotFoundError at import"),
        (HEAD + JOURNEY + "@journey(name='a')\nasync def b(user): ...\n", 4, "expected names that differ"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(
    write: Callable[[str], Path], text: str, line: int, sentence: str
) -> None:
    path = write(text)
    with pytest.raises(MisuseError) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert sentence in str(caught.value)


def test_a_target_that_nobody_named_is_refused(write: Callable[[str], Path]) -> None:
    path = write(HEAD + "target('http://127.0.0.1')\n" + JOURNEY)
    with pytest.raises(MisuseError, match=r"expected loopback or a host that .* got 'example.org'"):
        load_scenario(path, "https://example.org")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="found none at"):
        load_scenario(tmp_path / "none.py")
    with pytest.raises(MisuseError, match="module that can be imported"):
        load_scenario("no.such.module")


@pytest.mark.parametrize(("host", "is_one"), [
    ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("a.localhost", True),
    ("10.0.0.1", False), ("localhost.example.org", False), ("", False), ("0.0.0.0", False),
])  # fmt: skip
def test_loopback(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


def test_step_and_check_belong_into_a_journey() -> None:
    with pytest.raises(MisuseError, match="inside a running journey"), step("x"):
        pass
    with pytest.raises(MisuseError, match="inside a running journey"):
        check(False, "x")
