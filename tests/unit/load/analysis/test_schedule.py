from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load.schedule import Constant, Poisson, Ramp, Replay, Schedule, Soak, Spike, Steps, from_dict

COMMON = '127.0.0.1 - frank [10/Oct/2000:13:55:{second:02} -0700] "GET /a.gif HTTP/1.0" 200 2326'
COMBINED = COMMON + ' "http://example.org/start" "Mozilla/4.08 [en] (Win98)"'


def offsets(schedule: Schedule) -> list[float]:
    return list(chain.from_iterable(schedule.arrivals(1)))


def test_constant_counts_and_spacing() -> None:
    held = offsets(Constant("500/s", "2s"))
    assert len(held) == 1000
    assert held[:3] == [0, 0.002, 0.004]
    assert held[-1] == pytest.approx(1.998)


def test_a_rate_that_is_no_binary_fraction_makes_no_extra_arrival() -> None:
    assert len(offsets(Constant(0.1, 30))) == 3
    assert len(offsets(Constant(1 / 3, 9))) == 3


def test_steps_hold_each_rate_and_pause_at_zero() -> None:
    schedule = Steps([10, 0, 30], "1s")
    held = offsets(schedule)
    assert [sum(second <= at < second + 1 for at in held) for second in range(3)] == [10, 0, 30]
    assert schedule.duration == 3
    assert [schedule.rate_at(t) for t in (0.5, 1.5, 2.5)] == [10, 0, 30]


def test_a_spike_integrates_its_rise() -> None:
    schedule = Spike(10, 110, "20s", at="5s", width="6s", rise="2s")
    assert schedule.count_estimate == 10 * 20 + 100 * 4  # two triangles of 2 s and a plateau of 2 s
    assert [schedule.rate_at(t) for t in (0, 6, 8, 10, 15)] == [10, 60, 110, 60, 10]
    assert sum(5 <= at < 11 for at in offsets(schedule)) == pytest.approx(460, abs=1)


def test_a_soak_of_hours_comes_in_chunks() -> None:
    soak = Soak(20_000, "10h")
    assert soak.count_estimate == 720_000_000
    first = list(islice(soak.arrivals(1), 3))
    assert [len(part) for part in first] == [4096] * 3
    assert first[2][-1] < 1


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (Constant(500, 30), "500/s even for 30.0 s"),
        (Poisson(500, 30), "500/s Poisson for 30.0 s"),
        (Ramp(0, 90, 10), "ramp 0 to 90/s even over 10.0 s"),
        (Steps([1, 2], 5, poisson=True), "steps 1 → 2/s Poisson, 5.00 s each"),
        (Spike(1, 9, 10), "spike 1 to 9/s even at 4.00 s for 2.00 s, 10.0 s in all"),
        (Soak(5, "2h"), "soak at 5/s Poisson for 2 h"),
    ],
)
def test_schedules_describe_themselves(schedule: Schedule, line: str) -> None:
    assert schedule.describe() == line


@pytest.mark.parametrize("template", [COMMON, COMBINED])
def test_an_access_log_is_replayed_with_each_second_spread(tmp_path: Path, template: str) -> None:
    log = tmp_path / "access.log"
    log.write_text("\n".join(template.format(second=s) for s in (36, 36, 36, 36, 38)) + "\n\n")
    schedule = Replay(log)
    assert offsets(schedule) == [0, 0.25, 0.5, 0.75, 2]
    assert schedule.count_estimate == 5
    assert offsets(Replay(log, speed=2)) == [0, 0.125, 0.25, 0.375, 1]
    assert from_dict(schedule.to_dict()) == schedule


def test_numbers_are_replayed_from_the_first_and_sorted(tmp_path: Path) -> None:
    log = tmp_path / "times.txt"
    log.write_text("# seconds\n12.5\n10\n\n11.25\n")
    schedule = Replay(log)
    assert offsets(schedule) == [0, 1.25, 2.5]
    assert schedule.rate_at(1.25) == 1
    assert schedule.duration > 2.5


@pytest.mark.parametrize("bad", ["GET /", "nan", '127.0.0.1 - - [10/Okt/2000:13:55:36 -0700] "GET /" 200 1'])
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, bad: str) -> None:
    log = tmp_path / "times.txt"
    log.write_text(f"1\n2\n{bad}\n3\n")
    with pytest.raises(MisuseError, match=r"times\.txt, line 3: expected a line of an access log"):
        Replay(log)
    assert offsets(Replay(log, skip_malformed=True)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one arrival"),
        ("1\n" + COMMON.format(second=1), "one kind of line, got 1 numbers and 1 log"),
    ],
)
def test_logs_that_cannot_be_replayed(tmp_path: Path, text: str, message: str) -> None:
    log = tmp_path / "times.txt"
    log.write_text(text)
    with pytest.raises(MisuseError, match=message):
        Replay(log)
    with pytest.raises(MisuseError, match="cannot read"):
        Replay(tmp_path / "missing")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0, 1), "more than 0 arrivals"),
        (lambda: Poisson(5, 0), "more than 0 seconds"),
        (lambda: Poisson("fast", 1), "expected a rate"),
        (lambda: Ramp(0, 0, 1), "ramp: expected"),
        (lambda: Steps([], 1), "steps: expected"),
        (lambda: Spike(1, 2, 10, at=9, width=2), "spike: expected"),
        (lambda: Spike(1, 2, 10, width=2, rise=1.5), "spike: expected"),
        (lambda: Replay("x", speed=0), "speed: expected"),
        (lambda: Constant(1, 1).arrivals(1, chunk=0), "chunk: expected 1"),
        (lambda: from_dict({"kind": "sine"}), "expected a kind of constant, poisson"),
        (lambda: from_dict({"kind": "ramp", "rate": 1}), "schedule ramp: .*argument"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(make: object, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        make()  # type: ignore[operator]
