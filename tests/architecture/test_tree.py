"""What may not be in the repository: large files, and the paths of one person's machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 1_000_000
# Where people and machines keep their own things; put together here so that this file does not match itself.
PERSONAL = re.compile(r"(?<![\w.~$}/-])/(?:" + "|".join(("home", "Users", "root", "work")) + r")/\w")
VENV = re.compile(r"/tmp/\w*(?:venv|wt)\b")
IGNORED = {
    ".git",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "dist",
}


@pytest.fixture(scope="module")
def files():
    """The files of the repository: as git has them, or all there are where the source came without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=30,
    )
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.decode().split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not IGNORED & set(path.relative_to(ROOT).parts)]
    found = [path for path in paths if path.is_file()]
    assert ROOT / "pyproject.toml" in found
    return found


def test_no_file_is_over_a_megabyte(files):
    assert [str(path) for path in files if path.stat().st_size > LIMIT] == []


def test_no_file_holds_the_path_of_somebodys_machine(files):
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an archive
        for number, line in enumerate(text.splitlines(), start=1):
            if PERSONAL.search(line) or VENV.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


@pytest.mark.parametrize("line", ["see /" + "home/ann/x", '"/' + "Users/ann", "cd /" + "tmp/my" + "venv/bin"])
def test_the_patterns_find_what_they_are_for(line):
    assert PERSONAL.search(line) or VENV.search(line)


@pytest.mark.parametrize(
    "line", ["docs/home/page", "https://example.org/home/ann", "$HOME/work/x", "/homepage", "a/work/b"]
)
def test_and_leave_alone_what_they_are_not_for(line):
    assert not PERSONAL.search(line)
    assert not VENV.search(line)
