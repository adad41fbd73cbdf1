import asyncio
import json
import os
from contextlib import aclosing

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.balance.discovery import FromCallable, FromFile, FromList, read_endpoints
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.happenings import DiscoveryFailed
from tenfold.testing import FakeClock

A = Endpoint("a", "http://10.0.0.1:80")
B = Endpoint("b", "http://10.0.0.2:80")


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


class Watched:
    """A hub for a source, and what it has told."""

    def __init__(self):
        self.hub = Hub()
        self.told = []
        self.hub.subscribe(DiscoveryFailed, self.told.append)

    def words(self):
        return [each.why for each in self.told]


def follow(clock, source, *steps):
    """Run the source; after each change do the next step. All that it gave, as (time, ids)."""
    given = []

    async def main():
        remaining = list(steps)
        async with aclosing(source.changes()) as changes:
            async for found in changes:
                given.append((round(clock.monotonic(), 3), [each.id for each in found]))
                if not remaining:
                    break
                remaining.pop(0)()

    clock.run(main())
    return given


# A list


def test_a_list_is_given_once_sorted_by_id(clock):
    source = FromList([B, A, "http://10.0.0.3:8000"])

    async def main():
        return [found async for found in source.changes()]

    ((only),) = clock.run(main())
    assert [each.id for each in only] == ["10.0.0.3:8000", "a", "b"]


@pytest.mark.parametrize("wrong", [[], [A, A], [3], "http://10.0.0.1:80", ["10.0.0.1"]])
def test_a_list_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError):
        FromList(wrong)


# What people declare


def test_urls_and_tables_make_endpoints():
    made = read_endpoints(
        ["http://u:p@h:1", "unix:/run/app", {"id": "x", "url": "http://h:2", "weight": 2, "metadata": {"rack": "7"}}],
        "t",
    )
    assert [(each.id, each.weight, dict(each.metadata)) for each in made] == [
        ("/run/app", 1.0, {}),
        ("h:1", 1.0, {}),
        ("x", 2, {"rack": "7"}),
    ]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ([], "at least one"),
        ("http://h:1", "expected a list"),
        (None, "expected a list"),
        ([7], "a url or a table"),
        ([{}], "expected a url"),
        ([{"url": "http://h:1", "wieght": 2}], "no 'wieght'"),
        ([{"url": "http://h:1", "weight": -1}], "weight >= 0"),
        ([{"url": "http://h:1", "metadata": {"a": 1}}], "metadata of text"),
        (["http://h:1", "http://h:1"], "two endpoints have the id 'h:1'"),
        (["ftp://h"], "expected a url"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_place(wrong, word):
    with pytest.raises(MisuseError, match=word) as caught:
        read_endpoints(wrong, "pool.toml")
    assert str(caught.value).startswith("pool.toml: ")


# A file


def test_a_file_is_followed(clock, tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text('endpoints = ["http://h:1"]')
    given = follow(
        clock,
        FromFile(path, clock=clock),
        lambda: path.write_text('[[endpoints]]\nurl = "http://h:1"\n[[endpoints]]\nurl = "http://h:2"\nweight = 2'),
        lambda: path.write_text('endpoints = ["http://h:2"]'),
    )
    assert given == [(0, ["h:1"]), (1.1, ["h:1", "h:2"]), (2.2, ["h:2"])]


def test_json_as_a_table_and_as_a_list(clock, tmp_path):
    path = tmp_path / "pool.json"
    path.write_text(json.dumps({"endpoints": ["http://h:1"]}))
    given = follow(clock, FromFile(path, clock=clock), lambda: path.write_text(json.dumps(["http://h:2"])))
    assert [ids for _, ids in given] == [["h:1"], ["h:2"]]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("endpoints = [", "is not TOML"),
        ("endpoints = []", "at least one endpoint"),
        ("servers = []", 'expected a list "endpoints", got servers'),
        ("", "got nothing"),
        ('endpoints = [{url = "http://h:1", weight = -1}]', "weight >= 0"),
        (b"\xff\xfe", "is not TOML"),
    ],
)
def test_a_bad_file_keeps_the_old_set_and_is_told_once(clock, tmp_path, bad, word):
    path = tmp_path / "pool.toml"
    path.write_text('endpoints = ["http://h:1"]')
    watched = Watched()
    source = FromFile(path, clock=clock, events=watched.hub, random=lambda: 0.0)

    def spoil():
        path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        asyncio.get_running_loop().call_later(10.5, path.write_text, 'endpoints = ["http://h:2"]')

    given = follow(clock, source, spoil)
    assert given[0] == (0, ["h:1"])
    assert given[1][1] == ["h:2"]
    assert given[1][0] >= 10.5
    assert len(watched.told) == 1
    assert word in watched.told[0].why
    assert str(path) in watched.told[0].why
    assert source.failures > 5  # counted each time
    assert source.problem == ""


def test_a_file_that_is_gone_and_comes_back(clock, tmp_path):
    path = tmp_path / "pool.toml"
    watched = Watched()
    source = FromFile(path, clock=clock, events=watched.hub)

    async def main():
        asyncio.get_running_loop().call_later(5, path.write_text, 'endpoints = ["http://h:1"]')
        async with aclosing(source.changes()) as changes:
            return await anext(changes)

    assert [each.id for each in clock.run(main())] == ["h:1"]
    assert watched.words() == [f"cannot read {path}: No such file or directory"]


def test_a_change_that_keeps_size_and_time_stamp_is_seen(clock, tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text('endpoints = ["http://h:1"]')
    stamp = path.stat().st_mtime_ns

    def edit():
        path.write_text('endpoints = ["http://h:2"]')
        os.utime(path, ns=(stamp, stamp))

    assert [ids for _, ids in follow(clock, FromFile(path, clock=clock), edit)] == [["h:1"], ["h:2"]]


def test_a_file_caught_while_it_is_written_counts_once_it_is_whole(clock, tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text('endpoints = ["http://h:1"]')

    def write_slowly():
        lines = ["[[endpoints]]\n", 'url = "http://h:1"\n', "[[endpoints]]\n", 'url = "http://h:2"\n']
        for number in range(len(lines)):
            part = "".join(lines[: number + 1])
            asyncio.get_running_loop().call_later(0.95 + 0.09 * number, path.write_text, part)

    watched = Watched()
    given = follow(clock, FromFile(path, clock=clock, events=watched.hub), write_slowly)
    assert [ids for _, ids in given] == [["h:1"], ["h:1", "h:2"]]
    assert watched.told == []


def test_another_order_of_the_same_is_no_change(clock, tmp_path):
    path = tmp_path / "pool.toml"
    path.write_text('endpoints = ["http://h:1", "http://h:2"]')

    def turn():
        path.write_text('endpoints = ["http://h:2", "http://h:1"]')
        asyncio.get_running_loop().call_later(9, path.write_text, 'endpoints = ["http://h:3"]')

    assert [ids for _, ids in follow(clock, FromFile(path, clock=clock), turn)] == [["h:1", "h:2"], ["h:3"]]


def test_a_file_refuses_another_suffix_and_no_time():
    with pytest.raises(MisuseError, match=r"\.toml"):
        FromFile("pool.yaml")
    with pytest.raises(MisuseError, match="every"):
        FromFile("pool.toml", every=0)


# A function


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_function_is_asked_over_and_over(clock, kind):
    sets = iter([[A], [A], [B, A], []])

    def plain():
        return next(sets)

    async def coroutine():
        return next(sets)

    source = FromCallable(plain if kind == "plain" else coroutine, every="10s", clock=clock)
    given = follow(clock, source, lambda: None, lambda: None)
    assert given == [(0, ["a"]), (20, ["a", "b"]), (30, [])]


def test_a_function_that_fails_changes_nothing_and_is_asked_less_and_less_often(clock):
    asked = []

    async def moody():
        asked.append(round(clock.monotonic(), 3))
        if 0 < clock.monotonic() < 100:
            raise ConnectionError("registry is away")
        return [A] if not clock.monotonic() else [B]

    watched = Watched()
    source = FromCallable(moody, every="10s", clock=clock, events=watched.hub, random=lambda: 0.0)
    assert [ids for _, ids in follow(clock, source, lambda: None)] == [["a"], ["b"]]
    assert asked == [0, 10, 11, 13, 17, 25, 41, 71, 101]
    assert watched.words() == ["ConnectionError: registry is away"]
    assert source.failures == 7


@pytest.mark.parametrize(
    ("result", "word"),
    [
        ([A, A], "two endpoints"),
        (["x"], "expected endpoints"),
        ("abc", "expected endpoints"),
        (None, "expected endpoints"),
    ],
)
def test_a_result_that_makes_no_sense_is_a_failure(clock, result, word):
    results = iter([result, [A]])

    async def odd():
        return next(results)

    watched = Watched()
    assert [ids for _, ids in follow(clock, FromCallable(odd, clock=clock, events=watched.hub))] == [["a"]]
    assert word in watched.words()[0]


def test_a_function_that_hangs_meets_its_time_out(clock):
    calls = []

    async def hangs():
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return [A]

    watched = Watched()
    source = FromCallable(hangs, timeout="2s", clock=clock, events=watched.hub, random=lambda: 0.0)
    assert follow(clock, source) == [(3, ["a"])]
    assert watched.words() == ["no answer within 2.00 s"]


def test_what_cannot_be_called_is_refused():
    with pytest.raises(MisuseError, match="a function"):
        FromCallable([A])
