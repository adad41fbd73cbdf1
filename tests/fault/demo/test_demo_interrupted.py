"""SIGINT in the middle of the proof: what is known is written, and no process is left."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("whole_group", [False, True], ids=["kill", "terminal"])
def test_an_interrupted_demo_writes_what_it_has_and_leaves_nothing(
    tmp_path: Path, whole_group: bool, marked: tuple[dict[str, str], Callable[[], list[str]]]
) -> None:
    environment, living = marked
    demo = subprocess.Popen(
        [sys.executable, "-m", "tenfold", "blackfriday", "--quick", "--out", str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert demo.stdout is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in demo.stdout], daemon=True)
    reader.start()
    said = ""
    try:
        deadline = time.monotonic() + 60
        while "measure" not in said:
            said += lines.get(timeout=max(0.1, deadline - time.monotonic()))
        assert living(), "the mark must be seen, or the test proves nothing"
        # ^C of a terminal goes to every process of the group, kill(1) to one.
        (os.killpg if whole_group else os.kill)(demo.pid, signal.SIGINT)
        demo.wait(timeout=40)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
        reader.join(timeout=10)
        demo.stdout.close()
    said += "".join(lines.queue)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    story = json.loads((tmp_path / "report.json").read_text())
    assert story["stopped_because"] == "interrupted"
    assert "partial: interrupted" in (tmp_path / "report.html").read_text()
    assert living() == []
