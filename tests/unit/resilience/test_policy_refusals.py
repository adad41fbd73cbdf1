"""Combinations that would not do what they say, and functions that a policy cannot protect: one sentence each."""

import asyncio

import pytest

from tenfold._core.errors import MisuseError
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.deadline import Deadline
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retry


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "expected at least one of deadline, timeout"),
        ({"deadline": "soon"}, "policy deadline: expected a duration"),
        ({"deadline": -1}, "policy deadline: expected a finite number"),
        ({"deadline": 0}, "policy deadline: expected a duration above 0"),
        ({"deadline": "1s", "timeout": "1s"}, "timeout: expected less than the deadline"),
        ({"deadline": "1s", "timeout": "2s"}, "timeout: expected less than the deadline"),
        ({"retry": 3}, r"policy retry: expected Retry\(…\), got 3"),
        ({"limit": 3}, r"policy limit: expected RateLimit\(…\) or AdaptiveLimit\(…\), got 3"),
        ({"breaker": Breaker}, "policy breaker: expected Breaker"),
        ({"bulkhead": 5}, "policy bulkhead: expected Bulkhead"),
        ({"limit": AdaptiveLimit(), "bulkhead": Bulkhead(5)}, "keep one"),
        ({"breaker": Breaker(permits=5), "bulkhead": Bulkhead(4)}, "at least the breaker's 5 permits, got 4"),
        ({"deadline": "1s", "retry": Retry(base="1s")}, "first back-off"),
        ({"hedge": Hedge("1s")}, "say idempotent=True if that is safe"),
        ({"hedge": Hedge("2s"), "idempotent": True, "timeout": "1s"}, "is never reached within"),
        ({"hedge": Hedge("2s"), "idempotent": True, "deadline": "2s"}, "is never reached within"),
        ({"deadline": "1s", "idempotent": "yes"}, "idempotent: expected true or false"),
        ({"deadline": "1s", "answers": 5}, "answers: expected exception classes"),
    ],
)
def test_options(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Policy("p", registry=None, **options)


def test_a_name_is_needed():
    for name in ("", None, 5):
        with pytest.raises(MisuseError, match="expected a name"):
            Policy(name, deadline="1s", registry=None)


def test_what_goes_together_is_taken():
    Policy("p", deadline=Deadline("2s"), timeout="1s", retry=Retry(base="100ms"), registry=None)
    Policy("p", hedge=Hedge("1s"), retry=Retry(idempotent=True), registry=None)
    Policy("p", breaker=Breaker(permits=5), bulkhead=Bulkhead(5), registry=None)


def generator():
    yield 1


async def async_generator():
    yield 1


class Shop:
    pass


@pytest.mark.parametrize(
    ("fn", "sentence"),
    [
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (Shop, "expected a function to protect, got Shop"),
        (7, "expected a function to protect, got 7"),
        (classmethod(generator), "put the policy below @classmethod"),
        (staticmethod(generator), "put the policy below @staticmethod"),
        (property(generator), "got a property"),
    ],
)
def test_functions(fn, sentence):
    policy = Policy("p", deadline="1s", registry=None)
    with pytest.raises(MisuseError, match=sentence):
        policy(fn)
    with pytest.raises(MisuseError, match=sentence):
        policy(idempotent=True)(fn)
    with pytest.raises(MisuseError, match=sentence):
        policy.call(fn)


async def later(error):
    return error


def plain():
    return 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timeout": "1s"}, "timeout stops asynchronous calls"),
        ({"hedge": Hedge("1s"), "idempotent": True}, "a hedge needs an asynchronous function"),
        ({"fallback": Fallback(call=later)}, "is asynchronous and"),
    ],
)
def test_plain_functions(options, sentence):
    policy = Policy("p", registry=None, **options)
    with pytest.raises(MisuseError, match=sentence):
        policy(plain)
    with pytest.raises(MisuseError, match=sentence):
        policy.call(plain)
    assert asyncio.run(policy(later)(7)) == 7


def test_a_block_ends_where_it_began():
    policy = Policy("p", deadline="1s", registry=None)
    with pytest.raises(MisuseError, match="in the order in which it began"):
        policy.__exit__(None, None, None)
