"""The budget against a naive account: what was granted was earned, whatever the order of things."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.resilience.budget import Budget, Purse

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 20)),
        st.tuples(st.just("pass"), st.floats(0, 30)),
        st.tuples(st.just("reserve"), st.integers(1, 5)),
        st.tuples(st.just("confirm"), st.integers(0, 10)),
        st.tuples(st.just("refund"), st.integers(0, 10)),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([0.0, 0.1, 0.2, 1.0]), st.sampled_from([0.0, 0.5, 3.0]), st.integers(1, 30))
def test_never_more_than_was_earned(steps, share, floor, burst):
    if share == floor == 0:
        share = 0.2
    purse = Purse(Budget(share=share, floor=floor, burst=burst, window=10.0))
    now = started = 1000.0
    calls = taken = renewed = refunded = 0
    held = []
    for what, amount in steps:
        if what == "call":
            calls += amount
            for _ in range(amount):
                if purse.hungry:
                    purse.deposit()
        elif what == "pass":
            now += amount
        elif what == "reserve":
            for _ in range(amount):
                reservation = purse.reserve(now)
                if reservation is not None:
                    taken += 1
                    held.append(reservation)
        elif held:
            reservation = held.pop(amount % len(held))
            if what == "refund":
                purse.refund(reservation)
                refunded += 1
            else:
                old = now - reservation.at > 10
                if purse.confirm(reservation, now):
                    renewed += old
                else:
                    assert old
        assert 0 <= purse.tokens <= purse.cap
        assert purse.hungry is (purse.tokens < purse.cap)
    earned = burst + share * calls + floor * (now - started)
    assert taken + renewed - refunded <= earned + 1e-6
    assert purse.spent <= taken + renewed


@given(st.integers(0, 400), st.sampled_from([0.05, 0.2, 0.5]))
def test_the_share_is_earned_to_the_token(calls, share):
    """Without a floor: exactly the tokens that so many calls earn, and none is lost to rounding."""
    purse = Purse(Budget(share=share, floor=0, burst=1000))
    while purse.reserve(0.0):
        pass
    for _ in range(calls):
        purse.deposit()
    granted = 0
    while purse.reserve(0.0):
        granted += 1
    assert granted == int(calls * share + 1e-6)
