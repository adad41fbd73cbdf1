"""Types are part of the interface: what mypy must accept, and where it must find exactly the marked errors.

A marked line ends in ``# E: code`` (one code for each error on it).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = ROOT / "pyproject.toml"
MARK = re.compile(r"# E: ([a-z\- ]+)$")
FOUND = re.compile(r"^(.+?):(\d+)(?::\d+)?: error: .*\[([a-z-]+)\]$")


@pytest.fixture(scope="session")
def findings():
    """Every error that mypy reports in the samples, as (file name, line, code); one run for all of them."""
    files = sorted(HERE.glob("*ed/*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", "--no-error-summary", "--config-file", CONFIG, *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        timeout=110,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = []
    for line in done.stdout.splitlines():
        match = FOUND.match(line)
        if match is None:
            assert ": note: " in line, done.stdout
            continue
        found.append((Path(match[1]).name, int(match[2]), match[3]))
    return found


def marks(path):
    return [
        (path.name, number, code)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := MARK.search(line))
        for code in match[1].split()
    ]


@pytest.mark.parametrize("path", sorted(HERE.glob("accepted/*.py")), ids=lambda path: path.stem)
def test_accepted(path, findings):
    assert [found for found in findings if found[0] == path.name] == []


@pytest.mark.parametrize("path", sorted(HERE.glob("rejected/*.py")), ids=lambda path: path.stem)
def test_rejected(path, findings):
    expected = marks(path)
    assert expected, "a file that must be rejected has to mark at least one error"
    assert sorted(found for found in findings if found[0] == path.name) == sorted(expected)
