"""The how-to on clusters is true: its files run as they stand there, against a primary and two replicas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "database-cluster.md"


@pytest.mark.slow
def test_every_file_of_the_how_to_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    files = {re.match(r"# (\S+\.py)\n", block).group(1): block for block in blocks}  # type: ignore[union-attr]
    assert list(files) == ["shop.py", "conftest.py", "test_shop.py", "test_routes.py", "test_see.py", "test_z_drill.py"]
    for name, block in files.items():
        (tmp_path / name).write_text(block, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
        "pythonpath = .\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
