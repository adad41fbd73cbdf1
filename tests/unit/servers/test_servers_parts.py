"""The parts of tenfold.servers that need no server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tenfold.servers
from tenfold._core.errors import MisuseError, TenfoldError
from tenfold.servers import (
    NotRunningError,
    Postgres,
    ServersError,
    ServersTimeoutError,
    Topology,
    Valkey,
    home,
    locate,
    process,
    run,
)
from tenfold.servers.ports import free_port


def test_every_public_name_exists() -> None:
    for name in tenfold.servers.__all__:
        assert getattr(tenfold.servers, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Oracle'"):
        _ = tenfold.servers.Oracle


def test_the_package_is_light_for_the_keeper() -> None:
    code = "import sys, tenfold.servers.keeper as k\n"
    code += "print(sorted({'asyncio', 'asyncpg', 'redis'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout == "[]\n"


def test_errors_are_one_family() -> None:
    assert issubclass(ServersError, TenfoldError)
    assert issubclass(ServersTimeoutError, TimeoutError)


def test_a_pid_alone_is_nobody() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        identity = process.identify(child.pid)
        assert identity is not None
        assert process.alive(identity)
        stranger = process.ProcessId(child.pid, "1")  # the same pid in an earlier life
        assert not process.alive(stranger)
        assert not process.send(stranger, signal.SIGKILL)
        assert child.poll() is None
        assert process.tree(stranger) == []
        assert process.tree(identity) == [identity]
        assert process.send(identity, signal.SIGKILL)
        assert process.wait_gone([identity], 5.0) == []  # a zombie by now, and that counts as gone
    finally:
        child.kill()
        child.wait()
    assert not process.send(identity, signal.SIGKILL)


def test_only_the_run_s_programs_are_its_processes() -> None:
    token = "0123456789abcdef0123"
    child = subprocess.Popen(["/bin/sh", "-c", "read x", f"/somewhere/{token}/data"], stdin=subprocess.PIPE)
    try:
        assert process.naming(token, ["/usr/lib/postgresql/"]) == []
        assert [info.id.pid for info in process.naming(token, ["/bin/"])] == [child.pid]
        assert process.naming(token, []) == []
    finally:
        child.communicate()


def manifest(**changes: Any) -> dict[str, Any]:
    made = run._new_manifest("abc")
    return {**made, **{key: {**made[key], **value} for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "alive"),
    [
        ({}, True),
        ({"owner": {"started": "1"}}, False),
        ({"host": {"boot": "another"}}, False),
        ({"host": {"node": "elsewhere"}, "owner": {"started": "1"}}, True),
        ({"host": {"pid_space": "pid:[1]"}, "owner": {"started": "1"}}, True),
    ],
    ids=["runs", "its pid was reused", "the machine was booted", "on another host", "in another container"],
)
def test_who_counts_as_alive(changes: dict[str, Any], alive: bool) -> None:
    assert run.owner_alive(manifest(**changes)) is alive


def test_a_manifest_that_is_torn_or_foreign_is_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"format": 1, "token": "other"}', '{"format": 99}'):
        (tmp_path / run.MANIFEST).write_text(text)
        assert run.read_manifest(tmp_path) is None


def test_a_free_port_is_free_and_below_those_of_clients() -> None:
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 40
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_last_lines_are_one_line_without_control_characters() -> None:
    assert process.last_lines("a\n\n  b\x1b[0m\t\nc\n", 2) == "b [0m | c"


def test_a_file_named_instead_of_its_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENFOLD_POSTGRES_BIN", raising=False)
    found = locate.postgres()
    monkeypatch.setenv("TENFOLD_POSTGRES_BIN", str(found.program))
    assert locate.postgres().folder == found.folder


def test_state_folder_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TENFOLD_STATE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert home._wanted(None) == tmp_path / ".local/state/tenfold"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert home._wanted(None) == tmp_path / "x/tenfold"
    monkeypatch.setenv("TENFOLD_STATE", str(tmp_path / "t"))
    assert home._wanted(None) == tmp_path / "t"
    assert home._wanted(tmp_path / "argument") == tmp_path / "argument"


def test_misuse_is_refused_before_anything_starts() -> None:
    with pytest.raises(MisuseError, match="replicas: expected 0 to 12, got 13"):
        Topology(replicas=13)
    with pytest.raises(MisuseError, match="max_connections: expected 5 to 10000, got 1"):
        Postgres(max_connections=1)
    with pytest.raises(MisuseError, match="name: expected letters"):
        Valkey(name="../etc")
    with pytest.raises(NotRunningError, match="was expected to be started"):
        _ = Topology().primary
    assert repr(Postgres()) == "<Postgres postgres standalone no port down>"


def test_rights_are_read_as_the_kernel_reads_them(tmp_path: Path) -> None:
    nobody = home.Account("nobody", 65534, 65534)
    file = tmp_path / "program"
    file.touch()
    for mode, may in ((0o755, True), (0o750, False), (0o700, False)):
        file.chmod(mode)
        assert home._may(file, nobody, 0o5) is may
    mine = home.Account("me", os.getuid(), os.getgid())
    file.chmod(0o077)  # the owner's bits decide for the owner, whatever others may
    assert not home._may(file, mine, 0o5)
