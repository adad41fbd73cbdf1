"""What the first ten minutes run into: URLs as clouds hand them out, servers that do not answer, a missing extra."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from random import Random

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

import tenfold.db
from tenfold._core.errors import MisuseError
from tenfold.db import NoPrimary, ReadsRefused, Want, create_async_cluster
from tenfold.db.choose import choose
from tenfold.db.cluster_options import ClusterOptions
from tenfold.db.node import Node
from tenfold.db.read_connection import refused
from tenfold.db.seen import Seen
from tenfold.db.urls import asyncpg_url

NOBODY = "postgresql://shop:secret@127.0.0.1:9/shop"  # the discard port: refused at once


def test_a_url_for_libpq_becomes_one_for_asyncpg():
    url = asyncpg_url("postgres://shop@db.example/shop?sslmode=verify-full", "primary")
    assert url.render_as_string() == "postgresql+asyncpg://shop@db.example/shop?ssl=verify-full"
    assert (
        asyncpg_url(make_url("postgresql+asyncpg://db.example/shop?ssl=require"), "primary").query["ssl"] == "require"
    )
    assert asyncpg_url("postgresql://shop@/shop?host=/run/postgresql", "primary").query["host"] == "/run/postgresql"
    kept = asyncpg_url("postgresql+asyncpg://db.example/shop?prepared_statement_cache_size=0", "primary")
    assert kept.query["prepared_statement_cache_size"] == "0"


@pytest.mark.parametrize(
    ("parameter", "instead"),
    [
        ("application_name=shop", "ALTER ROLE"),
        ("connect_timeout=10", "create_async_cluster"),
        ("sslrootcert=/etc/ca.pem", "PGSSLROOTCERT"),
        ("channel_binding=require", "leave it out"),
    ],
)
def test_a_parameter_that_the_driver_does_not_take_is_refused_before_it_connects(parameter, instead):
    with pytest.raises(MisuseError, match=instead) as caught:
        create_async_cluster("postgresql://primary/shop", [f"postgresql://shop:secret@replica/shop?{parameter}"])
    assert str(caught.value).startswith("replicas[0]: ")
    assert "secret" not in str(caught.value)


async def test_a_writer_that_cannot_connect_is_told_why():
    async with create_async_cluster(NOBODY, failover_wait="100ms") as cluster:
        with pytest.raises(NoPrimary, match="look at the servers and at their URLs") as caught:
            await cluster.execute(text("DELETE FROM orders"))
    assert "secret" not in str(caught.value)


async def test_so_is_a_reader():
    async with create_async_cluster(NOBODY) as cluster:
        for _ in range(3):
            # the first one's own connection fails; who comes while the breaker is open is told of that
            with pytest.raises((OSError, ReadsRefused), match="Connect call failed"):
                await cluster.execute(text("SELECT 1"))


async def test_who_tries_again_without_a_pause_leaves_the_watch_its_turn():
    async def read():
        async with cluster.connect(read_only=True):
            pass

    async def session():
        async with sessions() as session:
            await session.execute(text("SELECT 1"))

    async with create_async_cluster(NOBODY) as cluster:
        sessions = cluster.sessionmaker()
        for refuse in (lambda: cluster.execute(text("SELECT 1")), read, session):
            refusals = 0
            while refusals < 2:  # the breaker opens first
                turns = []
                asyncio.get_running_loop().call_soon(turns.append, 1)
                with pytest.raises((OSError, ReadsRefused)) as caught:
                    await refuse()
                refusals += caught.type is ReadsRefused
                assert turns


def chosen(*nodes):
    return choose(Want(), nodes, time.monotonic(), Random(1), primary=None)


def test_each_server_that_is_silent_says_why():
    gone = Node("primary", make_url("postgresql+asyncpg://db-1/shop"), ClusterOptions())
    late = Node("replica 0", make_url("postgresql+asyncpg://db-2/shop"), ClusterOptions())
    gone.fail(OSError("no route to host"), time.monotonic())
    error = refused(chosen(gone))
    assert error.reasons == ("primary: out (its breaker is open), OSError: no route to host",)
    assert str(error).endswith("None answers: look at the servers and at their URLs")

    late.seen = Seen("replica", None, 3.2, "stale", time.monotonic())
    error = refused(chosen(gone, late))
    assert "OSError: no route to host" in str(error)
    assert "it is 3.20 s behind" in str(error)
    assert "max_lag" in str(error)
    assert "URL" not in str(error)


@pytest.mark.parametrize("missing", ["sqlalchemy", "asyncpg", "greenlet"])
def test_without_the_extra_the_message_says_what_to_install(missing):
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import tenfold.db.hot_rows\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "pip install 'tenfold[db]'" in last


def test_the_command_says_the_same(tmp_path):
    (tmp_path / "sqlalchemy.py").write_text("raise ModuleNotFoundError('no sqlalchemy', name='sqlalchemy')\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "tenfold", "reshard", "verify", "--models", "shop:Base"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "TENFOLD_SHARDS": "a=postgresql://a b=postgresql://b"},
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'tenfold[db]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_public_name_is_there():
    assert {name for name in tenfold.db.__all__ if not hasattr(tenfold.db, name)} == set()
    from tenfold.db.shards import ShardedCluster

    assert tenfold.db.ShardedCluster is ShardedCluster
    with pytest.raises(AttributeError, match="no attribute 'ShardCluster'"):
        tenfold.db.ShardCluster  # noqa: B018
