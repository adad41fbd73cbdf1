"""What `tenfold gateway run` says on standard error of what happens to endpoints."""

import pytest

from tenfold._core.events import EVENTS
from tenfold.balance.happenings import DiscoveryFailed, EndpointDown, EndpointEjected, EndpointReturned, EndpointUp
from tenfold.balance.turns import PanicEnded, PanicStarted
from tenfold.gateway.processes import Telling, WorkerDied
from tenfold.gateway.processes.telling import OF_ENDPOINTS


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (EndpointDown("app", "a", "no answer within 1.00 s"), "pool app: endpoint a is down: no answer within 1.00 s"),
        (EndpointUp("app", "a", "HTTP 200"), "pool app: endpoint a is up: HTTP 200"),
        (EndpointEjected("app", "a", "5 in a row", 30.0, 1), "pool app: endpoint a is ejected for 30 s: 5 in a row"),
        (EndpointReturned("app", "a", "5 in a row"), "pool app: endpoint a is no longer ejected"),
        (PanicStarted("app", 1, 4), "pool app: only 1 of 4 endpoints are ready, so all are asked (panic)"),
        (PanicEnded("app", 3, 4), "pool app: 3 of 4 endpoints are ready; panic is over"),
        (DiscoveryFailed("dns", "no such name", 1, 2.0), "discovery by dns failed, asked again in 2.0 s: no such name"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_each_change_of_an_endpoint_is_one_line(event, line, capsys):
    with Telling():
        EVENTS.emit(event)
    EVENTS.emit(event)  # and nothing is told after the block
    assert capsys.readouterr().err == f"tenfold: {line}\n"


def test_a_worker_says_which_one_it_is(capsys):
    with Telling(OF_ENDPOINTS, "worker 3"):
        EVENTS.emit(EndpointReturned("app", "a", "5 in a row"))
        EVENTS.emit(WorkerDied(3, 77, -9, "", 0.0))  # which is its supervisor's to tell
    assert capsys.readouterr().err == "tenfold: worker 3: pool app: endpoint a is no longer ejected\n"


def test_what_a_dead_worker_told_of_endpoints_is_not_why_it_died(capsys):
    with Telling():
        EVENTS.emit(WorkerDied(0, 77, 1, "MemoryError\ntenfold: worker 0: pool app: endpoint a is down: gone\n", 0.0))
    assert "(exit code 1); another one starts at once; it last said: MemoryError\n" in capsys.readouterr().err
