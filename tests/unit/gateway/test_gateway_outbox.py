"""Writes that are put off: until when, in which order, and which of them are not."""

from __future__ import annotations

import asyncio

import pytest

from tenfold.gateway.engine.outbox import MOST, SMALL, Outbox


class Transport:
    """Keeps what is written, in a log that several share."""

    def __init__(self, name, log):
        self.name, self.log, self.closing = name, log, False

    def write(self, data):
        assert not self.closing
        self.log.append((self.name, data))

    def is_closing(self):
        return self.closing


@pytest.fixture
def log():
    return []


async def test_small_writes_wait_for_the_end_of_the_turn_and_keep_their_order(log):
    outbox = Outbox(asyncio.get_running_loop())
    one, two = Transport("one", log), Transport("two", log)
    outbox.write(one, b"a")
    outbox.write(two, b"b")
    outbox.write(one, b"c")
    assert log == []
    assert repr(outbox) == "<Outbox of 3 writes>"
    await asyncio.sleep(0)
    assert log == [("one", b"a"), ("two", b"b"), ("one", b"c")]
    outbox.write(two, b"d")
    await asyncio.sleep(0)
    assert log[3:] == [("two", b"d")]


async def test_no_more_than_some_of_them_wait(log):
    outbox = Outbox(asyncio.get_running_loop())
    one = Transport("one", log)
    for number in range(MOST - 1):
        outbox.write(one, b"%d" % number)
    assert log == []
    outbox.write(one, b"last")
    assert [data for _, data in log] == [*(b"%d" % number for number in range(MOST - 1)), b"last"]
    outbox.write(one, b"next")
    assert len(log) == MOST
    await asyncio.sleep(0)
    assert log[-1] == ("one", b"next")


async def test_a_large_write_is_done_at_once_after_those_that_wait(log):
    outbox = Outbox(asyncio.get_running_loop())
    one = Transport("one", log)
    outbox.write(one, b"x" * SMALL)
    assert log == []
    outbox.write(one, b"y" * (SMALL + 1))
    assert [data[:1] for _, data in log] == [b"x", b"y"]
    await asyncio.sleep(0)
    assert len(log) == 2


async def test_what_was_for_a_connection_that_is_closing_is_dropped_and_the_rest_is_written(log):
    outbox = Outbox(asyncio.get_running_loop())
    one, two = Transport("one", log), Transport("two", log)
    outbox.write(one, b"a")
    outbox.write(two, b"b")
    one.closing = True
    outbox.flush()
    assert log == [("two", b"b")]
