"""Substitutes: for which errors, what they are given, what is counted."""

import asyncio
import functools
import json

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.errors import AttemptTimeout, BreakerOpen, DeadlineExceeded, Rejected
from tenfold.resilience.fallback import Fallback, FallbackUsed, Stopgap


def stopgap(*args, hub=None, **kwargs):
    return Stopgap(Fallback(*args, **kwargs), policy="p", hub=hub or Hub())


@pytest.mark.parametrize(
    "error",
    [OSError("x"), ValueError("x"), TimeoutError(), BreakerOpen("x"), DeadlineExceeded(""), AttemptTimeout("")],
)
def test_by_default_failures_of_the_world_get_a_substitute(error):
    assert stopgap("pending").handles(error)


@pytest.mark.parametrize(
    "error",
    [
        MisuseError("x"),
        TypeError("x"),
        AttributeError("x"),
        NameError("x"),
        ImportError("x"),
        AssertionError("x"),
        NotImplementedError("x"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
    ],
)
@pytest.mark.parametrize("on", [(Exception,), (ValueError, RuntimeError, Exception)])
def test_programming_errors_and_cancellations_pass_through(error, on):
    assert not stopgap("pending", on=on).handles(error)


def test_a_programming_error_that_is_named_counts():
    live = stopgap("pending", on=(TypeError, OSError))
    assert live.handles(TypeError("x"))
    assert live.handles(OSError("x"))
    assert not live.handles(AttributeError("x"))
    assert not live.handles(ValueError("x"))


def test_errors_may_be_named_by_strings_as_in_a_file():
    assert Fallback(1, on=["Rejected", "TimeoutError"]).on == (Rejected, TimeoutError)
    assert Fallback(1, on="OSError").on == (OSError,)
    assert Fallback(1, on=OSError).on == (OSError,)


def test_a_value_is_handed_out_and_a_mutable_one_is_copied():
    assert stopgap("pending").answer(OSError(), (), {}) == "pending"
    assert stopgap(None).answer(OSError(), (), {}) is None
    live = stopgap({"items": []})
    first = live.answer(OSError(), (), {})
    first["items"].append(1)
    assert live.answer(OSError(), (), {}) == {"items": []}
    marker = object()
    assert stopgap(marker).answer(OSError(), (), {}) is marker


def test_a_function_gets_the_error_and_the_arguments():
    error = OSError("down")
    live = stopgap(call=lambda *args, **kwargs: (args, kwargs))
    assert live.answer(error, (1, 2), {"c": 3}) == ((error, 1, 2), {"c": 3})
    assert live.used == 1


async def test_an_asynchronous_function_is_awaited_and_a_plain_one_will_do():
    async def later(error, order):
        await asyncio.sleep(0)
        return f"{order}: {error}"

    assert await stopgap(call=later).answer_async(OSError("down"), (7,), {}) == "7: down"
    assert await stopgap(call=lambda error, order: order).answer_async(OSError("down"), (7,), {}) == 7
    assert await stopgap("pending").answer_async(OSError("down"), (7,), {}) == "pending"


class AsyncCallable:
    async def __call__(self, error):
        return "later"


async def _later(error, prefix=""):
    return "later"


@pytest.mark.parametrize("call", [_later, functools.partial(_later, prefix="x"), AsyncCallable()])
async def test_an_asynchronous_fallback_of_a_plain_function_is_refused_at_decoration(call):
    live = stopgap(call=call)
    with pytest.raises(MisuseError, match=r"policy 'p'.*is asynchronous and .*charge is not; give a plain function"):
        live.check(_plain_charge)
    live.check(_later)
    with pytest.raises(MisuseError, match="is asynchronous"):
        live.answer(OSError(), (), {})
    assert await live.answer_async(OSError(), (), {}) == "later"


def _plain_charge(order):
    return order


def test_a_plain_fallback_suits_both():
    live = stopgap(call=lambda error: None)
    live.check(_plain_charge)
    live.check(_later)


def test_what_the_fallback_raises_is_raised_with_the_first_error_as_its_context():
    live = stopgap(call=lambda error: 1 / 0)

    def call():
        try:
            raise OSError("down")
        except OSError as error:
            return live.answer(error, (), {})

    with pytest.raises(ZeroDivisionError) as caught:
        call()
    assert isinstance(caught.value.__context__, OSError)
    assert (live.used, live.failures) == (0, 1)


async def test_a_cancellation_in_the_fallback_is_no_failure_of_it():
    async def call(error):
        raise asyncio.CancelledError

    live = stopgap(call=call)
    with pytest.raises(asyncio.CancelledError):
        await live.answer_async(OSError(), (), {})
    assert (live.used, live.failures) == (0, 0)


async def test_failures_of_an_asynchronous_fallback_are_counted():
    async def call(error):
        raise KeyError("x")

    live = stopgap(call=call)
    with pytest.raises(KeyError):
        await live.answer_async(OSError(), (), {})
    assert live.failures == 1


def test_each_use_is_an_event():
    hub, seen = Hub(), []
    with hub.subscribe(FallbackUsed, seen.append):
        stopgap("pending", hub=hub).answer(BreakerOpen("x"), (), {})
    assert seen == [FallbackUsed("p", "BreakerOpen")]


def test_state_repr_and_reconfiguration():
    live = stopgap("pending")
    live.answer(OSError(), (), {})
    live.reconfigure(Fallback("closed"))
    assert live.answer(OSError(), (), {}) == "closed"
    assert json.loads(json.dumps(live.state())) == {"used": 2, "failures": 0}
    assert repr(live) == "<Stopgap 'p' value='closed' used=2 failures=0>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either value or call, got value=nothing and call=None"),
        ({"value": 1, "call": print}, "expected either value or call"),
        ({"call": "pending"}, "call: expected a function of .* got 'pending'; a constant goes into value"),
        ({"value": 1, "on": ()}, "on: expected at least one exception class, got none"),
        ({"value": 1, "on": "TimeOutError"}, "on: expected exception classes, or names .* got 'TimeOutError'"),
        ({"value": 1, "on": (int,)}, "on: expected exception classes, or names"),
        ({"value": 1, "on": asyncio.CancelledError}, "on: expected classes derived from Exception, got CancelledError"),
        ({"value": 1, "on": BaseException}, "on: expected classes derived from Exception, got BaseException"),
        ({"value": 1, "on": "print"}, "on: expected exception classes"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(options, message):
    with pytest.raises(MisuseError, match=message):
        Fallback(**options)
