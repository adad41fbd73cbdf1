"""The buffer of writes against a naive model: nothing is lost, nothing overtakes, no more than fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenfold.cache.write_buffer import Buffer

keys = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.just("put"), keys)
    | st.tuples(st.sampled_from(["take", "stored", "failed", "cancelled"]), st.just(0))
    | st.tuples(st.just("wait"), st.integers(0, 30)),
    max_size=60,
)


@given(steps, st.integers(1, 4), st.integers(4, 6))
def test_the_last_value_taken_is_the_last_value_stored(
    steps: list[tuple[str, int]], batch: int, max_pending: int
) -> None:
    buffer: Buffer[int, int] = Buffer(batch, 10.0, max_pending)
    newest: dict[int, int] = {}  # what each key was last put as
    origin: dict[int, int] = {}
    out: dict[int, int] | None = None
    now, number = 0.0, 0
    for what, amount in steps:
        if what == "wait":
            now += amount
        elif what == "put":
            number += 1
            full = len(buffer) >= max_pending
            if buffer.put(amount, number, now):
                newest[amount] = number
            else:
                assert full
        elif what == "take" and out is None and buffer.due(now) is not None:
            out = buffer.take()
            assert 0 < len(out) <= batch
        elif out is not None:
            if what == "stored":
                assert all(origin.get(key, 0) < value for key, value in out.items())  # a key never goes back
                origin.update(out)
                buffer.done()
                out = None
            elif what == "failed":
                buffer.drop_superseded()
            elif what == "cancelled":
                waits_again = any(newest[key] == value for key, value in out.items())
                buffer.give_back(now)
                out = None
                assert not waits_again or buffer.due(now) == 0.0
        assert len(buffer) <= max_pending
        for key, value in newest.items():
            assert buffer.get(key, origin.get(key)) == value
    assert {**origin, **buffer.drain()} == newest
    assert len(buffer) == 0


@given(st.lists(st.tuples(keys, st.floats(0, 3)), min_size=1, max_size=30))
def test_no_key_waits_longer_than_the_delay_however_often_it_is_written(puts: list[tuple[int, float]]) -> None:
    buffer: Buffer[int, int] = Buffer(100, 10.0, 100)
    now = 0.0
    since: dict[int, float] = {}
    for key, pause in puts:
        now += pause
        buffer.put(key, 0, now)
        since.setdefault(key, now)
        due = buffer.due(now)
        assert due is not None
        assert abs(due - max(0.0, min(since.values()) + 10 - now)) < 1e-9
