"""SQLAlchemy's own dialect suite as an oracle from outside: what it says of SQLAlchemy alone it must say of SQLAlchemy
over the cluster's pools, and with its reads routed to replicas, test by test.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenfold.servers import Postgres, Topology

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "src"
SETTINGS = """
[tool:pytest]
addopts = -p no:asyncio -p no:cacheprovider --tb=short
python_files = test_suite.py
[sqla_testing]
requirement_cls=conftest:Requirements
profile_file=profiles.txt
"""
SOME = (
    "CTETest or FetchLimitOffsetTest or InsertBehaviorTest or SimpleUpdateDeleteTest or LikeFunctionsTest or RowFetch"
)


def at(server: Postgres, database: str) -> str:
    return f"{server.url.rpartition('/')[0]}/{database}"


async def suite(topology: Topology, how: str, folder: Path, only: str, within: float) -> dict[str, Any]:
    """Run it in a process of its own, in a folder of its own, on a database of its own; what it reported."""
    database = f"suite_{how}"
    connection = await asyncpg.connect(topology.primary.url)
    await connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {database} TEMPLATE template0")
    await connection.close()
    connection = await asyncpg.connect(at(topology.primary, database))
    await connection.execute("CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2")
    await connection.close()
    for replica in topology.replicas:
        await replica.caught_up(within="30s")
    folder = folder / how
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread(shutil.copy, HERE / "suite_conftest.py", folder / "conftest.py")
    for name, text in (("test_suite.py", "from sqlalchemy.testing.suite import *\n"), ("setup.cfg", SETTINGS)):
        (folder / name).write_text(text, encoding="utf-8")
    report = folder / "report.json"
    url = at(topology.primary, database).replace("postgresql://", "postgresql+asyncpg://")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "--dburi", url, *(["-k", only] if only else []),
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}",
            "TENFOLD_SUITE": how,
            "TENFOLD_SUITE_REPLICAS": " ".join(at(replica, database) for replica in topology.replicas),
            "TENFOLD_SUITE_REPORT": str(report),
        },
    )  # fmt: skip
    try:
        async with asyncio.timeout(within):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert report.exists(), said.decode()[-3000:]
    told: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    outcomes = list(told["results"].values())
    counts = {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}
    print(how, counts, told.get("router"), told["counted"])
    told["counts"] = counts
    return told


async def compared(topology: Topology, folder: Path, hows: tuple[str, ...], only: str, within: float) -> dict[str, Any]:
    runs = await asyncio.gather(*[suite(topology, how, folder, only, within) for how in ("stock", *hows)])
    stock = runs[0]["results"]
    for how, run in zip(hows, runs[1:], strict=True):
        differ = {
            name: (stock.get(name), run["results"].get(name))
            for name in stock.keys() | run["results"].keys()
            if stock.get(name) != run["results"].get(name)
        }
        assert differ == {}, how
    return dict(zip(("stock", *hows), runs, strict=True))


async def test_some_of_the_suite_says_the_same_of_routed_reads(topology: Topology, tmp_path: Path) -> None:
    runs = await compared(topology, tmp_path, ("routed",), SOME, 100)
    assert runs["stock"]["counts"]["passed"] >= 60
    assert runs["stock"]["counts"]["failed"] == 0
    assert runs["routed"]["router"]["reads_on_replicas"] >= 30


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_whole_suite_says_the_same_of_the_pools_and_of_routed_reads(
    topology: Topology, tmp_path: Path
) -> None:
    runs = await compared(topology, tmp_path, ("pools", "routed"), "", 800)
    assert runs["stock"]["counts"]["passed"] >= 1600
    assert runs["stock"]["counts"]["failed"] == 0
    assert runs["pools"]["checkouts"] >= 1600
    assert runs["routed"]["router"]["reads_on_replicas"] >= 400
