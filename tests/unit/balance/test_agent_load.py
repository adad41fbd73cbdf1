import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.balance.agent import AgentLoad, Load, parse_load


@pytest.mark.parametrize(
    ("text", "load"),
    [("0.7", 0.7), (" 70% ", 0.7), ("0", 0.0), (".25", 0.25), ("1.5", 1.0), ("400%", 1.0)],
)
def test_reads_shares_and_per_cent(text, load):
    assert parse_load(text) == pytest.approx(load)


@pytest.mark.parametrize("text", ["", "-0.1", "nan", "inf", "1e3", "0,7", "0.7 0.8", "٠.٧", "9" * 400, "%"])
def test_what_makes_no_sense_is_no_report(text):
    assert parse_load(text) is None
    load = Load()
    assert load.report(text, 0.0) is False
    assert (load.reports, load.refused, load.factor(0.0)) == (0, 1, 1.0)


@given(st.text(max_size=20))
def test_nothing_that_a_server_sends_raises(text):
    load = parse_load(text)
    assert load is None or 0.0 <= load <= 1.0


def test_weight_is_multiplied_by_the_headroom_but_never_by_less_than_the_floor():
    load = Load(AgentLoad(floor=0.2))
    load.report("0.7", 0.0)
    assert load.factor(0.0) == pytest.approx(0.3)
    full = Load(AgentLoad(floor=0.2))
    full.report(1.0, 0.0)
    assert full.factor(0.0) == 0.2


def test_decays_when_silent_to_the_declared_weight():
    load = Load(AgentLoad(half_life="10s"))
    load.report(0.8, 0.0)
    assert load.value(10.0) == pytest.approx(0.4)
    assert load.factor(20.0) == pytest.approx(0.8)
    assert load.factor(1000.0) == pytest.approx(1.0)


def test_is_a_mean_and_not_the_last_word():
    load = Load(AgentLoad(half_life="10s"))
    for second in range(60):
        load.report(0.2, float(second))
    load.report(1.0, 60.0)
    assert 0.2 < load.value(60.0) < 0.4


def test_no_report_is_no_refusal():
    load = Load()
    assert load.report(None, 0.0) is False
    assert load.report(math.nan, 0.0) is False
    assert load.state(0.0) == {"load": 0.0, "factor": 1.0, "reports": 0, "refused": 1}


@pytest.mark.parametrize("wrong", [{"header": "a b"}, {"header": ""}, {"half_life": 0}, {"floor": 0}])
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="expected"):
        AgentLoad(**wrong)
