"""The scalability law finds what points were made by, and a plan says what it rests on or why there is none."""

import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Measured, NoPlan, Plan, plan
from tenfold.autoscale.usl import USL, fit
from tenfold.db.pool_size import connections_for


def points(law, counts, **more):
    return [Measured(count, law.rate(count), **more) for count in counts]


@pytest.mark.parametrize(
    "law",
    [USL(200, 0, 0, 0), USL(200, 0.05, 0, 0), USL(200, 0, 0.002, 0), USL(200, 0.03, 0.001, 0)],
    ids=["straight", "contention", "coherence", "both"],
)
def test_the_law_that_made_the_points_is_found_again(law):
    found = fit(points(law, (1, 2, 4, 8, 16)))
    assert (found.one, found.contention, found.coherence) == pytest.approx(
        (law.one, law.contention, law.coherence), abs=1e-6
    )
    assert found.error == pytest.approx(0, abs=1e-9)


def test_the_peak_is_where_more_do_less():
    law = USL(100, 0.04, 0.01, 0)
    assert law.peak == pytest.approx(math.sqrt(0.96 / 0.01))
    assert law.rate(9) < law.rate(9.8) > law.rate(11)
    assert USL(100, 0.1, 0, 0).peak == math.inf


def test_better_than_straight_is_not_believed():
    """Points that grow faster than the number of workers give no negative contention."""
    found = fit([Measured(1, 100), Measured(2, 210), Measured(4, 430), Measured(8, 880)])
    assert (found.contention, found.coherence) == (0, 0)
    assert 0.02 < found.error < 0.1


def test_three_counts_are_not_enough_for_both_and_two_for_none():
    law = USL(200, 0.03, 0.001, 0)
    three = fit(points(law, (1, 4, 16)))
    assert 0 in (three.contention, three.coherence)
    assert fit(points(law, (1, 4))) is None
    assert fit([Measured(1, 100), Measured(1, 101), Measured(2, 190), Measured(2, 191)]) is None


def test_a_plan_has_the_workers_the_headroom_and_the_assumptions():
    law = USL(200, 0.02, 0, 0)
    found = plan("1000/s", points(law, (1, 2, 4, 8), response_time="50ms"), headroom="30%", database_time="4ms")
    assert isinstance(found, Plan)
    needed = 1000 / 0.7
    assert law.rate(found.workers) >= needed > law.rate(found.workers - 1)
    assert found.headroom == pytest.approx(1 - 1000 / law.rate(found.workers))
    assert found.headroom >= 0.3
    assert found.in_flight == pytest.approx(50.0)
    each = 50 / found.workers
    assert found.pool == math.ceil(each + 2 * math.sqrt(each))
    held = 4 / found.workers
    assert found.database_pool == math.ceil(held + 2 * math.sqrt(held))
    assert found.database_connections == found.database_pool * found.workers
    assert len(found.assumptions) == 4
    assert "50.0 ms" in found.assumptions[2]


def test_a_plan_beyond_what_was_measured_says_so():
    law = USL(200, 0.01, 0, 0)
    found = plan(1800, points(law, (1, 2, 4, 8)), headroom=0)
    assert found.workers == 10
    assert "beyond the 8 that were measured" in found.assumptions[0]


@pytest.mark.parametrize(
    ("rate", "measured", "words"),
    [
        (100, [], "nothing was measured"),
        (500, [Measured(1, 100), Measured(2, 190)], "known for 2 numbers of workers only"),
        (500, [Measured(1, 100), Measured(2, 50), Measured(4, 390), Measured(8, 300)], "misses a measured rate"),
        (6000, points(USL(200, 0.01, 0, 0), (1, 2, 4, 8)), "more than 16 workers, twice"),
        (900, points(USL(100, 0.04, 0.01, 0), (1, 2, 4, 8)), "no number of workers does 900/s"),
    ],
    ids=["nothing", "too few", "no fit", "too far", "past the peak"],
)
def test_what_the_data_do_not_support_is_refused_with_what_to_measure(rate, measured, words):
    found = plan(rate, measured, headroom=0)
    assert isinstance(found, NoPlan)
    assert words in found.why
    assert found.measure


def test_what_was_measured_needs_no_law():
    found = plan(150, [Measured(1, 100), Measured(2, 190)], headroom=0.1)
    assert (found.workers, found.capacity, found.law) == (2, 190, None)
    assert (found.in_flight, found.pool, found.database_connections, found.replicas) == (None, None, None, None)


def test_a_database_that_allows_too_few_connections_stops_the_plan():
    measured = points(USL(100, 0, 0, 0), (1, 2, 4, 8))
    found = plan(1000, measured, headroom=0, database_time="20ms", max_connections=40)
    assert isinstance(found, NoPlan)
    assert "5 database connections each, 50 in all, and the database allows 40" in found.why
    assert plan(1000, measured, headroom=0, database_time="20ms", max_connections=50).database_connections == 50


def test_replicas_are_for_the_reads_with_the_same_headroom():
    found = plan(700, [Measured(8, 2000)], headroom=0.3, reads=3, replica_rate="1500/s")
    assert found.replicas == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Measured(0, 100),
        lambda: Measured(1, 0),
        lambda: plan(0, [Measured(1, 100)]),
        lambda: plan(10, [Measured(1, 100)], headroom=1),
        lambda: plan(10, [Measured(1, 100)], reads=-1),
        lambda: plan(10, [Measured(1, 100)], replica_rate=0),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(MisuseError):
        make()


def test_a_point_that_never_missed_answers_for_itself_and_bends_no_law():
    """A client that was too weak at eight workers would otherwise look like contention."""
    law = USL(100, 0.01, 0, 0)
    capped = [*points(law, (1, 2, 4)), Measured(8, 300, at_least=True)]
    assert fit(capped).contention == pytest.approx(0.01)
    assert plan(290, [Measured(1, 100), Measured(8, 300, at_least=True)], headroom=0).workers == 8
    found = plan(310, [Measured(1, 100), Measured(8, 300, at_least=True)], headroom=0)
    assert isinstance(found, NoPlan)
    assert "known for 1 number of workers only" in found.why


@pytest.mark.parametrize("rate", [0.5, 10, 333, 1000, 12_000])
@pytest.mark.parametrize("held", ["100us", "4ms", "2s"])
def test_database_pools_are_those_that_the_database_layer_would_make(rate, held):
    found = plan(rate, [Measured(4, rate * 2)], headroom=0, database_time=held)
    assert found.database_pool == connections_for(rate / 4, held)
