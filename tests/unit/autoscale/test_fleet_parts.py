"""The options of a fleet, where its workers listen, and what is kept of what they say."""

import subprocess
import sys

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale.supervisor import FleetError, FleetOptions, Member
from tenfold.autoscale.supervisor.place import Place, accepts
from tenfold.autoscale.supervisor.process import Words, how


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"app": "shop"}, 'expected "module:attribute" such as "shop.main:app", got \'shop\''),
        ({"app": "shop.py:app()"}, "expected"),
        ({"server": "gunicorn"}, "expected granian or uvicorn, got 'gunicorn'"),
        ({"ready_timeout": 0}, "expected more than 0 s"),
        ({"hung_after": "200ms"}, "expected 1 s or more, because a busy worker is late too"),
        ({"backoff_first": "1m"}, "expected a first pause above 0 s and at most the cap"),
        ({"backoff_first": 0}, "expected a first pause above 0 s"),
        ({"max_requests": 0}, "expected a whole number of 1 or more"),
        ({"memory_limit": "1 elephant"}, "memory_limit: expected a size"),
        ({"drain_timeout": "soon"}, "drain_timeout: expected a duration"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(MisuseError) as caught:
        FleetOptions(**{"app": "shop.main:app", **options})
    assert told in str(caught.value)


def test_options_are_seconds_and_bytes():
    options = FleetOptions(app="shop.main:create.app", hung_after=None, drain_timeout="1m", env={"A": "b"})
    assert (options.ready_timeout, options.drain_timeout, options.hung_after) == (30.0, 60.0, None)
    assert options.seconds("hung_after") == float("inf")
    with pytest.raises(TypeError):
        options.env["A"] = "c"


def test_a_place_is_private_and_gives_each_number_once(tmp_path):
    place = Place(tmp_path / "run")
    try:
        assert place.path.stat().st_mode & 0o777 == 0o700
        assert place.next() == ("1", f"unix://{place.path}/1.sock")
        (place.path / "2.sock").touch()
        assert place.next()[0] == "3"
        assert not accepts(f"unix://{place.path}/3.sock")
        place.left(f"unix://{place.path}/3.sock")  # it never listened
        for number in range(4, 200):
            (place.path / f"{number}.sock").touch()
        with pytest.raises(FleetError, match="no free path"):
            place.next()
    finally:
        place.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_long_paths_give_ports_that_are_held(tmp_path):
    place = Place(tmp_path / ("x" * 100))
    try:
        urls = [place.next()[1] for _ in range(20)]
        assert len(set(urls)) == 20
        assert all(url.startswith("http://127.0.0.1:") for url in urls)
        assert not accepts(urls[0])
    finally:
        place.close()


def test_the_directory_of_a_killed_owner_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path):
    alive = Place(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from tenfold.autoscale.supervisor.place import Place; "
        "place = Place(Path(sys.argv[1])); (place.path / '1.sock').touch(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    new = Place(tmp_path)
    assert set(tmp_path.iterdir()) == {alive.path, new.path}
    alive.close()
    new.close()
    new.close()
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MisuseError, match="expected one in which sockets can be made"):
        Place(tmp_path / "file")


def test_words_are_passed_on_by_lines_and_the_last_are_kept():
    passed = []
    words = Words("7", passed.append)
    words.feed(b"one\ntw")
    assert passed == ["[7] one\n"]
    words.feed(b"o\n\xff\n\nthree")
    words.end()
    assert "".join(passed) == "[7] one\n[7] two\n[7] \ufffd\n[7] \n[7] three\n"
    assert words.last == "one\ntwo\n\ufffd\nthree"
    for number in range(1000):
        words.feed(b"%d\n" % number)
    assert words.last.splitlines() == [str(number) for number in range(970, 1000)]
    words.feed(b"x" * 1_000_000)
    assert len(words.last) < 40_000
    assert sum(map(len, passed)) > 999_000


def test_exit_codes_in_words():
    assert (how(0), how(3), how(-9), how(-99)) == ("exit code 0", "exit code 3", "signal SIGKILL", "signal 99")


def test_a_member_that_is_not_there_uses_nothing():
    member = Member("1", "unix:///x", 0.0)
    assert (member.memory(), member.cpu_seconds()) == (None, None)
    assert repr(member) == "<Member 1 starting pid=0 in_flight=0>"
