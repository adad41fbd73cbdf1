"""One state folder for all tests here, so that initdb runs once; at the end no run may be left in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def state() -> Iterator[Path]:
    # Not pytest's own temporary folder: it is mode 700, and the servers' account could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="tenfold-test-"))
    folder.chmod(0o755)
    before = os.environ.get("TENFOLD_STATE")
    os.environ["TENFOLD_STATE"] = str(folder)
    try:
        yield folder
        left = list((folder / "runs").iterdir()) if (folder / "runs").exists() else []
        assert left == [], "a test has left a run behind"
    finally:
        if before is None:
            del os.environ["TENFOLD_STATE"]
        else:
            os.environ["TENFOLD_STATE"] = before
        shutil.rmtree(folder, ignore_errors=True)
