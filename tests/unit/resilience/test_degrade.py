"""Levels: up at once but step by step, down slowly, by hand for a while, and never flapping."""

import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.degradation import Degradation
from tenfold.resilience.degrade import Degrade, LevelChanged
from tenfold.testing import FakeClock


def make(**options):
    given = {"smooth": 0, "up": (0.8, 1.0, 1.2, 1.5), "down": (0.6, 0.8, 1.0, 1.2), **options}
    return Degradation(Degrade(**given), name="shop", hub=Hub(), clock=FakeClock())


def test_it_goes_up_at_once_but_one_level_a_step():
    degradation = make(step="1s")
    assert [degradation.observe(9.0, now) for now in (0.0, 0.5, 1.0, 1.9, 2.0, 3.0, 4.0)] == [1, 1, 2, 2, 3, 4, 4]
    assert degradation.level_name == "emergency"


def test_it_goes_down_one_level_a_dwell():
    degradation = make(dwell="10s", step=0)
    degradation.observe(9.0, 0.0)
    degradation.observe(9.0, 1.0)
    assert [degradation.observe(0.0, now) for now in (5.0, 10.9, 11.0, 20.9, 21.0)] == [2, 2, 1, 1, 0]


def test_between_the_thresholds_it_stays():
    degradation = make(dwell=1, step=0)
    assert degradation.observe(0.7, 0.0) == 0  # above down, not yet at up
    assert degradation.observe(0.8, 1.0) == 1
    assert [degradation.observe(0.7, 1.0 + i) for i in range(1, 60)] == [1] * 59
    assert degradation.observe(0.59, 61.0) == 0


def test_a_pressure_that_swings_around_the_threshold_does_not_make_it_flap():
    degradation = make(dwell="10s")
    for tick in range(3000):
        degradation.observe(0.8 + (0.05 if tick % 2 else -0.05), tick * 0.1)
    assert [change.after for change in degradation.history] == [1]


def test_one_bad_moment_is_not_a_reason_and_a_bad_second_is():
    degradation = make(smooth="1s")
    for tick in range(50):
        degradation.observe(0.3, tick * 0.1)
    for _ in range(1000):  # a burst of bad signals at one moment
        degradation.observe(1.5, 5.0)
    assert degradation.level == 0
    for tick in range(10):
        degradation.observe(1.5, 5.1 + tick * 0.1)
    assert degradation.level == 1


def test_a_slow_observer_reaches_the_true_pressure_too():
    degradation = make(smooth="1s", dwell="60s")
    for tick in range(10):
        degradation.observe(1.0, tick * 5.0)
    assert degradation.pressure == pytest.approx(1.0, rel=0.01)


def test_silence_counts_as_calm():
    degradation = make(dwell="10s", step=0)
    for now in (0.0, 1.0, 2.0, 3.0):
        degradation.observe(9.0, now)
    assert degradation.level == 4
    assert degradation.observe(0.1, 24.0) == 2  # twenty-one seconds of nothing: two dwells
    assert degradation.observe(0.1, 3600.0) == 0


def test_after_a_silence_the_old_pressure_is_forgotten():
    degradation = make(smooth="1s", dwell="10s")
    for tick in range(20):
        degradation.observe(1.5, float(tick))
    assert degradation.pressure == pytest.approx(1.5)
    degradation.observe(1.0, 100.0)
    assert degradation.pressure == pytest.approx(0.5)  # half of the new, nothing of the old


def test_switches_follow_the_level():
    degradation = make(step=0, switches={"search": "limited", "wishlist": 0})
    degradation.switch("recommendations", until_level=1)
    degradation.switch("checkout", until_level="emergency")
    seen = [{name: degradation[name] for name in ("checkout", "search", "recommendations", "wishlist")}]
    for now in range(3):
        degradation.observe(9.0, float(now))
        seen.append({name: degradation.on(name) for name in seen[0]})
    assert [[name for name, on in row.items() if on] for row in seen] == [
        ["checkout", "search", "recommendations", "wishlist"],
        ["checkout", "search", "recommendations"],
        ["checkout", "search"],
        ["checkout"],
    ]


def test_the_table_is_swapped_and_never_changed():
    degradation = make(switches={"search": 0})
    before = degradation._table
    degradation.observe(9.0, 0.0)
    assert before == {"search": True}
    assert degradation._table == {"search": False}


def test_a_pin_holds_either_way_until_it_expires():
    degradation = make(step=0)
    degradation.pin("essential", "10m", who="ann", why="moving the payment database", now=0.0)
    assert degradation.level == 3
    assert degradation.observe(0.0, 300.0) == 3
    assert degradation.observe(9.0, 590.0) == 3
    assert degradation.observe(0.7, 600.0) == 1  # what the pressure said meanwhile
    assert degradation.state()["pin"] is None
    degradation.pin(0, "1m", who="ben", why="a false alarm", now=600.0)
    assert degradation.level == 0
    degradation.unpin(who="ben", why="it was none")
    degradation.unpin(who="ben", why="twice")
    assert degradation.level == 1


def test_a_pin_ends_without_any_pressure_too():
    degradation = make()
    degradation.pin(2, 60, who="ann", why="drill", now=0.0)
    assert degradation.tick(59.9) == 2
    assert degradation.tick(60.0) == 0


def test_the_trail_says_who_when_and_why_and_is_bounded():
    degradation = make(history=3, step=0)
    heard = []
    degradation._hub.subscribe(LevelChanged, heard.append)
    degradation.observe(9.0, 0.0)
    degradation.pin(1, 60, who="ann", why="drill", now=1.0)
    degradation.unpin(who="ann", why="done")
    degradation.observe(9.0, 3.0)
    at = 1_700_000_000.0
    assert heard == [
        LevelChanged("shop", at, "pressure", 0, 1, "pressure 9"),
        LevelChanged("shop", at, "ann", 1, 1, "pinned for 60 s: drill"),
        LevelChanged("shop", at, "ann", 1, 1, "unpinned: done"),
        LevelChanged("shop", at, "pressure", 1, 2, "pressure 9"),
    ]
    assert list(degradation.history) == heard[1:]
    assert degradation.state()["history"][-1]["who"] == "pressure"


def test_new_options_keep_level_pin_and_switches():
    degradation = make(step=0, switches={"search": 1})
    for now in range(4):
        degradation.observe(9.0, float(now))
    degradation.switch("mail", until_level=3)
    degradation.reconfigure(Degrade(names=("fine", "slow", "down"), up=(0.5, 0.9), down=(0.3, 0.6), smooth=0))
    assert (degradation.level, degradation.level_name) == (2, "down")
    assert (degradation.on("search"), degradation.on("mail")) == (False, True)
    assert degradation.history[-1].who == "configuration"


def test_it_is_the_same_from_many_threads():
    degradation = make(step=0, dwell=0.0001)
    stop = threading.Event()
    wrong = []

    def read():
        while not stop.is_set():
            if not 0 <= degradation.level <= 4 or degradation.state()["automatic"] not in range(5):
                wrong.append(degradation.level)

    degradation.switch("x", until_level=2)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for tick in range(2000):
        degradation.observe(9.0 if tick // 10 % 2 else 0.0, tick * 0.001)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert degradation["x"] == (degradation.level <= 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"up": (0.5, 0.9)}, r"Degrade.up: expected 4 pressures above 0, one for each level above 0, got \(0.5, 0.9\)"),
        ({"up": (0.9, 0.8, 1.0, 1.1)}, r"Degrade.up: expected rising pressures"),
        ({"up": (0, 1, 2, 3)}, r"Degrade.up: expected 4 pressures above 0"),
        ({"up": "0.5"}, r"Degrade.up: expected 4 pressures"),
        (
            {"down": (0.95, 1.0, 1.1, 1.2)},
            r"Degrade.down: expected less than up for level 1 \(0.9\), got 0.95;",
        ),
        ({"names": ("normal",)}, r"Degrade.names: expected two names"),
        ({"names": ("a", "b", "a", "c", "d")}, r"Degrade.names: expected different names"),
        ({"names": "abcde"}, r"Degrade.names: expected two names of levels or more, got 'abcde'"),
        ({"dwell": "-1s"}, r"Degrade.dwell: expected a duration such as"),
        ({"history": 0}, r"Degrade.history: expected a whole number of 1 or more, got 0"),
        ({"switches": {"search": 7}}, r"switch 'search': expected a level of 0 … 4 or one of normal, .*, got 7"),
        ({"switches": ["search"]}, r"Degrade.switches: expected names with levels"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Degrade(**options)


def test_misuse_is_refused_in_a_sentence():
    degradation = make(switches={"search": 1})
    with pytest.raises(MisuseError, match=r"expected one of \['search'\], got 'serach'; declare it once"):
        degradation.on("serach")
    with pytest.raises(MisuseError, match="a second one with another level"):
        degradation.switch("search", until_level=2)
    degradation.switch("search", until_level=1)  # the same again is the same
    with pytest.raises(MisuseError, match="pin: expected a level"):
        degradation.pin("panic", 60, who="ann", why="x")
    with pytest.raises(MisuseError, match="pin expires: expected a duration above zero"):
        degradation.pin(1, 0, who="ann", why="x")
    with pytest.raises(MisuseError, match="observe: expected a finite pressure, got nan"):
        degradation.observe(float("nan"), 0.0)
    with pytest.raises(MisuseError, match="expected Degrade options"):
        Degradation({"dwell": 3})


def test_it_tells_its_state():
    degradation = make(switches={"search": 0, "checkout": 4})
    degradation.pin(1, 60, who="ann", why="drill", now=0.0)
    assert repr(degradation) == "<Degradation 'shop' level=1 (reduced) pinned by ann off=[search]>"
