"""The table of `freshness`: laws over any declaration and any moment, and the phases in their order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.cache.freshness import (
    NEVER,
    REFRESHED,
    SERVED,
    WITHOUT_LOAD,
    Decision,
    Freshness,
    Life,
    Phase,
    declared,
    rest,
)

ORDER = [Phase.FRESH, Phase.EAGER, Phase.STALE, Phase.DEAD]

seconds = st.integers(1, 10_000).map(lambda n: n / 8)
shares = st.integers(1, 15).map(lambda n: n / 16)
declarations = st.builds(
    Freshness,
    ttl=seconds,
    jitter=st.sampled_from([0.0, 0.1, 0.5]),
    stale=st.one_of(st.just(0.0), seconds),
    eager=st.one_of(st.none(), shares),
    none_ttl=st.one_of(st.none(), st.just(0.0), seconds),
    soft=st.sampled_from([0.0, 0.5]),
    throttle=seconds,
)
moments = st.integers(0, 40_000).map(lambda n: n / 8)


@given(fresh=declarations, draw=st.floats(0, 1), moment=moments)
def test_nothing_is_served_beyond_ttl_and_stale_and_nothing_stale_within_the_ttl(
    fresh: Freshness, draw: float, moment: float
) -> None:
    life = fresh.life(0.0, draw, none=False, ttl=None, etag=None)
    assert life is not None
    span = fresh.ttl * (1 - fresh.jitter * draw)
    decision = fresh.look_up(life, moment)
    if moment >= span + fresh.stale:
        assert decision is Decision.LOAD
        assert WITHOUT_LOAD[life.phase(moment)] is Decision.LOAD
    elif moment >= span:
        assert decision is (Decision.REFRESH_OR_STALE if fresh.soft else Decision.STALE_AND_REFRESH)
        assert WITHOUT_LOAD[life.phase(moment)] is Decision.STALE
    elif fresh.eager is not None and moment >= span * fresh.eager:
        assert decision is Decision.HIT_AND_REFRESH
    else:
        assert decision is Decision.HIT
    # The short way, a comparison with `until`, answers exactly while nothing is to be done but answer.
    assert (moment < life.until) == (decision is Decision.HIT)


@given(fresh=declarations, draw=st.floats(0, 1), times=st.lists(moments, min_size=2))
def test_a_value_never_grows_younger(fresh: Freshness, draw: float, times: list[float]) -> None:
    life = fresh.life(0.0, draw, none=False, ttl=None, etag=None)
    assert life is not None
    phases = [ORDER.index(life.phase(at)) for at in sorted(times)]
    assert all(earlier <= later for earlier, later in pairwise(phases))


@given(fresh=declarations, failed=moments, after=moments)
def test_a_loader_that_failed_rests_and_no_longer_than_the_throttle(
    fresh: Freshness, failed: float, after: float
) -> None:
    life = fresh.life(0.0, 0.0, none=False, ttl=None, etag=None)
    assert life is not None
    before = fresh.look_up(life, failed + after)
    rest(life, failed, fresh.throttle)
    decision = fresh.look_up(life, failed + after)
    if life.fresh_until <= failed + after < life.stale_until and after < fresh.throttle:
        assert decision is Decision.STALE
    else:
        assert decision is before


@given(fresh=declarations, draw=st.floats(0, 1), moment=moments)
def test_none_has_its_own_life_and_is_never_stale(fresh: Freshness, draw: float, moment: float) -> None:
    life = fresh.life(0.0, draw, none=True, ttl=None, etag=None)
    if fresh.none_ttl is None:
        assert life is not None
        assert life.stale_until - life.fresh_until == pytest.approx(fresh.stale)
    elif fresh.none_ttl == 0:
        assert life is None
    else:
        assert life is not None
        expected = Decision.HIT if moment < fresh.none_ttl * (1 - fresh.jitter * draw) else Decision.LOAD
        assert fresh.look_up(life, moment) is expected


@given(fresh=declarations, left=st.floats(-100, 1e6), old=st.floats(0, 1e6))
def test_a_copy_lives_no_longer_than_declared_here(fresh: Freshness, left: float, old: float) -> None:
    life = fresh.found(50.0, left - old, left, None)
    assert life.fresh_until <= 50.0 + min(fresh.ttl, left - old)
    assert life.stale_until <= max(life.fresh_until, 50.0 + fresh.ttl + fresh.stale)
    assert life.stale_until <= 50.0 + max(left, left - old)


def test_what_serves_and_what_refreshes() -> None:
    life = Life(10.0, 20.0, 8.0)
    assert repr(life) == "Life(eager 8, fresh 10, stale 20)"
    assert [life.phase(at) for at in (7.9, 8.0, 10.0, 20.0)] == ORDER
    assert {Decision.LOAD, Decision.REFRESH_OR_STALE} == set(Decision) - SERVED
    assert {Decision.HIT, Decision.STALE, Decision.LOAD} == set(Decision) - REFRESHED
    assert Life(10.0, 10.0).plain
    assert not any(one.plain for one in (life, Life(10.0, 11.0), Life(10.0, 0.0, 5.0), Life(1.0, 1.0, NEVER, "v1")))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stale": "soon"}, "f: stale: expected a duration"),
        ({"stale": -1}, "f: stale: expected a finite number"),
        ({"eager": 1}, "f: eager: expected a share of the TTL between 0 and 1"),
        ({"eager": True}, "f: eager: expected a share"),
        ({"eager": "0.8"}, "f: eager: expected a share"),
        ({"none_ttl": "x"}, "f: none_ttl: expected a duration"),
        ({"hard_timeout": 0}, "f: hard_timeout: expected at least 1 ms"),
        ({"soft_timeout": "2s", "hard_timeout": "1s"}, "f: soft_timeout: expected less than hard_timeout"),
        ({"throttle": None}, "f: throttle: expected a number"),
        ({"stail": 1}, "f: stail: there is no such argument; expected one of stale, eager"),
    ],
)
def test_refusals(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        declared(Freshness(ttl=1.0), "f: ", None, options)  # type: ignore[arg-type]


def test_what_is_not_said_stays_and_none_switches_off() -> None:
    base = declared(Freshness(ttl=1.0), "", "5m", {"stale": "1h", "eager": 0.5, "none_ttl": 0, "hard_timeout": "2s"})
    assert base == Freshness(ttl=300.0, stale=3600.0, eager=0.5, none_ttl=0.0, hard=2.0)
    assert declared(base, "", None, {"eager": None}) == Freshness(ttl=300.0, stale=3600.0, none_ttl=0.0, hard=2.0)
    off = declared(base, "", None, {"stale": None, "eager": None, "none_ttl": None, "hard_timeout": None})
    assert off == Freshness(ttl=300.0)
