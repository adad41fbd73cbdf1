import pytest

from tenfold._core.errors import MisuseError
from tenfold.balance.checks import FunctionCheck, HttpCheck, TcpCheck, Verdict
from tenfold.balance.endpoint import Endpoint

HERE = Endpoint("a", "http://127.0.0.1:9")


async def fine(endpoint):
    return True


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HttpCheck("health"),
        lambda: HttpCheck("/with space"),
        lambda: HttpCheck("/\r\nX: 1"),
        lambda: HttpCheck("/", interval=0),
        lambda: HttpCheck("/", timeout="soon"),
        lambda: HttpCheck("/", rise=0),
        lambda: HttpCheck("/", fall=True),
        lambda: HttpCheck("/", jitter=0.95),
        lambda: HttpCheck("/", initial="maybe"),
        lambda: HttpCheck("/", expect="200"),
        lambda: HttpCheck("/", expect=200),
        lambda: HttpCheck("/", host="a b"),
        lambda: HttpCheck("/", host="a\r\nX: 1"),
        lambda: HttpCheck("/", load_header="X Y"),
        lambda: TcpCheck(backoff="-1s"),
        lambda: FunctionCheck(lambda endpoint: True),
    ],
)
def test_refuses_what_makes_no_sense(wrong):
    with pytest.raises(MisuseError, match="expected"):
        wrong()


def test_interval_doubles_from_fall_on_up_to_the_backoff():
    check = TcpCheck(interval="2s", fall=3, jitter=0, backoff="30s")
    pauses = [check.pause(failures, lambda: 0.5) for failures in (0, 1, 2, 3, 4, 5, 6, 7, 10_000)]
    assert pauses == [2, 2, 2, 4, 8, 16, 30, 30, 30]


def test_an_interval_above_the_backoff_stays():
    assert TcpCheck(interval="60s", jitter=0, backoff="30s").pause(9, lambda: 0.0) == 60


def test_jitter_goes_both_ways():
    check = TcpCheck(interval="10s", jitter=0.2)
    assert check.pause(0, lambda: 0.0) == 8.0
    assert check.pause(0, lambda: 0.999999) == pytest.approx(12.0)


def test_first_probe_is_spread_wide_and_at_once_where_work_waits_for_it():
    assert TcpCheck(interval="10s").first(lambda: 0.5) == 5.0
    assert TcpCheck(interval="10s", initial="down", jitter=0.2).first(lambda: 0.5) == 1.0


async def test_a_function_says_yes_no_or_a_verdict():
    async def no(endpoint):
        return False

    async def own(endpoint):
        return Verdict(True, f"{endpoint.id} is half full", 0.5)

    async def raises(endpoint):
        raise LookupError("no such table")

    async def odd(endpoint):
        return "yes"

    said = [await FunctionCheck(fn).probe(HERE) for fn in (fine, no, own, raises, odd)]
    assert [each.ok for each in said] == [True, False, True, False, False]
    assert said[2] == Verdict(True, "a is half full", 0.5)
    assert said[3].why == "LookupError: no such table"
    assert "expected True, False or a Verdict" in said[4].why
