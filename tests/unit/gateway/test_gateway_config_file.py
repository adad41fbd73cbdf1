"""A configuration file that is watched: what makes sense is put into force, the rest is told and changes nothing."""

import os

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold.gateway.config import ConfigFile, GatewayConfigError
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded
from tenfold.testing import FakeClock

TEXT = """
[gateway]
listen = "127.0.0.1:8080"
[admin]
token = "0123456789abcdef"
[[pool]]
name = "app"
endpoints = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9002", weight = 2 }]
check = true
[[route]]
name = "all"
pool = "app"
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
def told(hub):
    events = []
    hub.subscribe(Event, events.append)
    return events


def replace(path, text):
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def watched(clock, file, steps, take=None):
    """Take each step and let three seconds pass; what was taken."""
    taken = []

    async def keep(config, changes):
        if take is not None:
            await take(config, changes)
        taken.append((config, changes))

    async def main():
        async with file.watching(keep, "1s"):
            for step in steps:
                step()
                await clock.sleep(3)

    clock.run(main())
    return taken


def test_a_changed_file_is_taken_with_what_is_new(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    taken = watched(clock, file, [lambda: replace(path, TEXT.replace("weight = 2", "weight = 5")), lambda: None])
    ((config, changes),) = taken
    assert file.config is config
    assert list(changes.lines()) == ["pool app: endpoint 127.0.0.1:9002 weight -> 5"]
    assert [type(event) for event in told] == [ConfigReloaded]
    assert told[0].changes == tuple(changes.lines())
    assert (file.reloads, file.rejections) == (1, 0)


def test_a_wrong_file_changes_nothing_and_is_told_once(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    before = file.config
    wrong = TEXT.replace('pool = "app"', 'pool = "ap"')
    taken = watched(clock, file, [lambda: replace(path, wrong), lambda: None])
    assert taken == []
    assert file.config is before
    assert [type(event) for event in told] == [ConfigRejected]
    assert told[0].problems[0].endswith("12: route 1 pool: 'ap': unknown pool; did you mean app?")
    assert file.state()["problems"] == list(told[0].problems)
    assert repr(file).endswith("reloads=0 rejections=1 problems=1>")


def test_a_file_put_right_again_clears_the_problem(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    watched(clock, file, [lambda: replace(path, "x"), lambda: replace(path, TEXT)])
    assert [type(event) for event in told] == [ConfigRejected, ConfigReloaded]
    assert file.problems == ()


def test_a_file_that_is_gone_changes_nothing(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    assert watched(clock, file, [path.unlink]) == []
    assert "No such file" in told[0].problems[0]


def test_what_cannot_be_put_into_force_stays_out(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    before = file.config

    async def refuse(config, changes):
        raise OSError("no such certificate")

    watched(clock, file, [lambda: replace(path, TEXT.replace("9001", "9003"))], refuse)
    assert file.config is before
    assert told[0].problems == (f"{path}: no such certificate",)


def test_a_reload_by_hand_raises_what_is_wrong(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    path.write_text("[gateway]\n", encoding="utf-8")

    async def take(config, changes):
        raise AssertionError("never called")

    with pytest.raises(GatewayConfigError):
        clock.run(file.reload(take))
    assert len(told) == 1


def test_what_needs_a_restart_is_said(clock, path, hub, told):
    file = ConfigFile(path, clock=clock, hub=hub)
    new = TEXT.replace("127.0.0.1:8080", "127.0.0.1:9090").replace("0123456789abcdef", "fedcba9876543210")
    ((_, changes),) = watched(clock, file, [lambda: replace(path, new)])
    assert list(changes.lines()) == [
        "gateway.listen: 127.0.0.1:8080 -> 127.0.0.1:9090 (needs a restart)",
        "admin.token: … -> …",
    ]
    assert [each.key for each in changes.restart] == ["gateway.listen"]


def test_the_state_has_no_secret(clock, path, hub):
    assert "0123456789abcdef" not in str(ConfigFile(path, clock=clock, hub=hub).state())


def test_a_wrong_file_cannot_be_begun_with(path):
    path.write_text("", encoding="utf-8")
    with pytest.raises(GatewayConfigError):
        ConfigFile(path)


def test_an_interval_of_zero_is_refused(clock, path):
    async def main():
        async with ConfigFile(path, clock=clock).watching(None, 0):
            raise AssertionError

    with pytest.raises(MisuseError, match="longer than zero"):
        clock.run(main())
