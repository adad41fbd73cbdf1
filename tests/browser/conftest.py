"""A real browser, where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _dom_of(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The document after its scripts ran, and what the browser logged."""
    assert CHROMIUM is not None
    line = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", f"--user-data-dir={profile}", "--enable-logging=stderr",
        "--virtual-time-budget=10000", "--window-size=1280,2400", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    # A process group of its own: chromium starts helpers, and on a time-out all of them have to go.
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            out, log = child.communicate(timeout=90)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return out, log


@pytest.fixture
def dom_of() -> Callable[..., tuple[str, str]]:
    """``dom_of(page, profile_folder, *flags)``: the document after its scripts ran, and what the browser logged."""
    if CHROMIUM is None:
        pytest.skip("no chromium found: the page was NOT looked at by a browser")
    return _dom_of
