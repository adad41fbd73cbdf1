"""The middleware against applications that behave and misbehave, in virtual time and without a server."""

import asyncio
import json
import math

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.asgi import ResilienceMiddleware
from tenfold.resilience.degradation import Degradation
from tenfold.resilience.degrade import Degrade
from tenfold.resilience.errors import (
    AttemptTimeout,
    BreakerOpen,
    BulkheadFull,
    ChaosFault,
    DeadlineExceeded,
    DeadlineTooShort,
    RateLimited,
)
from tenfold.resilience.inbound import RequestCounters
from tenfold.resilience.scope import NO_SCOPE, SCOPE
from tenfold.resilience.shed import Shed
from tenfold.resilience.shedder import Shedder
from tenfold.resilience.wire import PRIORITY, Priority
from tenfold.testing import FakeClock


@pytest.fixture
def clock():
    with FakeClock() as clock:
        yield clock


class Call:
    """One request, driven as a server would: messages in, messages out."""

    def __init__(self, app, headers=(), *, method="GET", path="/", kind="http", body=(b"",), extensions=None):
        self.app = app
        self.scope = {
            "type": kind,
            "method": method,
            "path": path,
            "headers": [(name.lower().encode(), value.encode()) for name, value in dict(headers).items()],
            "client": ("10.0.0.9", 1234),
            "extensions": extensions or {},
        }
        self.inbox = asyncio.Queue()
        for number, part in enumerate(body, start=1):
            self.inbox.put_nowait({"type": "http.request", "body": part, "more_body": number < len(body)})
        self.sent = []

    async def send(self, message):
        self.sent.append(message)

    def disconnect(self):
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def run(self):
        await self.app(self.scope, self.inbox.get, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def problem(self):
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        found = json.loads(self.body)
        assert found["status"] == self.status
        return found


async def answer(send, status=200, body=b"ok"):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def serving(work=None, seen=None):
    """An application that notes its scope, does ``work`` and answers 200."""

    async def app(scope, receive, send):
        if seen is not None:
            seen.append((SCOPE.get(), PRIORITY.get()))
        if work is not None:
            await work()
        await answer(send)

    return app


def sleeping(seconds):
    return serving(lambda: asyncio.sleep(seconds))


def raising(error):
    async def work():
        raise error

    return serving(work)


# Terms


@pytest.mark.parametrize(
    ("headers", "options", "until", "malformed"),
    [
        ({}, {}, math.inf, 0),
        ({"Tenfold-Timeout-Ms": "1500"}, {}, 1.5, 0),
        ({"Tenfold-Timeout-Ms": "999999999"}, {}, 60.0, 0),
        ({"Tenfold-Timeout-Ms": "5000"}, {"max_timeout": "3s"}, 3.0, 0),
        ({"Tenfold-Timeout-Ms": "5000"}, {"default_timeout": "2s"}, 2.0, 0),
        ({"Tenfold-Timeout-Ms": "1000"}, {"default_timeout": "2s"}, 1.0, 0),
        ({"Tenfold-Timeout-Ms": "-5"}, {"default_timeout": "2s"}, 2.0, 1),
        ({"Tenfold-Timeout-Ms": "soon", "Tenfold-Retry": "maybe", "Tenfold-Priority": "urgent"}, {}, math.inf, 3),
    ],
)
def test_the_deadline_reaches_the_application(clock, headers, options, until, malformed):
    seen = []
    app = ResilienceMiddleware(serving(seen=seen), clock=clock, **options)
    assert clock.run(Call(app, headers).run()).status == 200
    assert seen == [((until, False), Priority.NORMAL)]
    assert app.counters.malformed == malformed


def test_retry_marker_and_priority_reach_the_application_and_end_with_the_request(clock):
    seen = []
    app = ResilienceMiddleware(serving(seen=seen), clock=clock)

    async def main():
        await Call(app, {"Tenfold-Retry": "caller", "Tenfold-Priority": "batch"}).run()
        return SCOPE.get(), PRIORITY.get()

    assert clock.run(main()) == (NO_SCOPE, Priority.NORMAL)
    assert seen == [((math.inf, True), Priority.BATCH)]


def test_the_strictest_of_several_headers_counts(clock):
    seen = []
    call = Call(ResilienceMiddleware(serving(seen=seen), clock=clock))
    for name, value in [("timeout-ms", "900"), ("timeout-ms", "700"), ("priority", "batch"), ("priority", "critical")]:
        call.scope["headers"].append((f"tenfold-{name}".encode(), value.encode()))
    clock.run(call.run())
    assert seen == [((0.7, False), Priority.BATCH)]


def test_strangers_cannot_claim_more_than_they_may_and_own_rules_come_first(clock):
    seen = []
    critical = {"Tenfold-Priority": "critical"}
    clock.run(Call(ResilienceMiddleware(serving(seen=seen), max_priority="normal", clock=clock), critical).run())
    rule = {"priority": lambda scope: "batch" if scope["path"] == "/report" else Priority.NORMAL}
    clock.run(Call(ResilienceMiddleware(serving(seen=seen), clock=clock, **rule), critical, path="/report").run())
    assert [priority for _, priority in seen] == [Priority.NORMAL, Priority.BATCH]


# Deadlines


def test_expired_on_arrival_is_answered_without_the_application(clock):
    seen = []
    app = ResilienceMiddleware(serving(seen=seen), clock=clock)
    call = clock.run(Call(app, {"Tenfold-Timeout-Ms": "0"}).run())
    assert call.status == 504
    assert call.problem == {
        "type": "about:blank",
        "title": "Gateway Timeout",
        "status": 504,
        "detail": "The time for this request had passed before it was started.",
        "code": "deadline-too-short",
    }
    assert "retry-after" not in call.headers
    assert seen == []
    assert app.counters.expired == 1


def test_an_application_still_running_at_the_deadline_is_stopped(clock):
    ended = []

    async def work():
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(clock.monotonic())

    app = ResilienceMiddleware(serving(work), default_timeout="250ms", clock=clock)
    call = clock.run(Call(app).run())
    assert call.problem["code"] == "deadline-exceeded"
    assert call.status == 504
    assert ended == [0.25]
    assert app.counters.stopped == 1


def test_without_enforcement_it_is_told_and_left_alone(clock):
    app = ResilienceMiddleware(sleeping(10), default_timeout="250ms", enforce=False, clock=clock)
    assert clock.run(Call(app).run()).status == 200
    assert clock.monotonic() == 10


def test_half_an_answer_is_cut_off_and_not_completed(clock):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await asyncio.sleep(10)

    call = Call(ResilienceMiddleware(app, default_timeout=1, clock=clock))
    with pytest.raises(DeadlineExceeded):
        clock.run(call.run())
    assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]


def test_what_runs_in_the_background_after_the_answer_is_left_alone(clock):
    done = []

    async def app(scope, receive, send):
        await answer(send)
        done.append(SCOPE.get())
        await asyncio.sleep(10)
        done.append(clock.monotonic())

    call = clock.run(Call(ResilienceMiddleware(app, default_timeout=1, clock=clock)).run())
    assert call.status == 200
    assert done == [NO_SCOPE, 10]


@pytest.mark.parametrize("swallow", [asyncio.CancelledError, BaseException])
def test_an_application_that_makes_something_else_of_its_end_is_a_time_out_all_the_same(clock, swallow):
    async def work():
        try:
            await asyncio.sleep(10)
        except swallow:
            raise RuntimeError("cleaning up failed") from None

    call = clock.run(Call(ResilienceMiddleware(serving(work), default_timeout=1, clock=clock)).run())
    assert call.status == 504


def test_an_application_that_answers_by_itself_when_it_is_stopped_has_answered(clock):
    async def app(scope, receive, send):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await answer(send, 202, b"later")

    call = clock.run(Call(ResilienceMiddleware(app, default_timeout=1, clock=clock)).run())
    assert (call.status, call.body, len(call.sent)) == (202, b"later", 2)


def test_what_an_application_does_after_its_late_answer_is_not_an_error_of_the_server(clock):
    async def app(scope, receive, send):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await answer(send, 202, b"later")
            raise

    call = clock.run(Call(ResilienceMiddleware(app, default_timeout=1, clock=clock)).run())
    assert (call.status, len(call.sent)) == (202, 2)


def test_an_application_that_ends_in_silence_when_it_is_stopped_is_answered_for(clock):
    async def app(scope, receive, send):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return

    assert clock.run(Call(ResilienceMiddleware(app, default_timeout=1, clock=clock)).run()).status == 504


def test_what_a_left_behind_task_sends_after_our_answer_is_dropped(clock):
    async def app(scope, receive, send):
        async def late():
            await asyncio.sleep(2)
            await answer(send)

        tasks.append(asyncio.create_task(late()))
        await asyncio.sleep(10)

    async def main():
        call = await Call(ResilienceMiddleware(app, default_timeout=1, clock=clock)).run()
        await tasks[0]
        return call

    tasks = []
    call = clock.run(main())
    assert call.status == 504
    assert len(call.sent) == 2


def test_a_cancellation_from_outside_stays_one(clock):
    app = ResilienceMiddleware(sleeping(10), default_timeout=5, shedder=Shed(1), clock=clock)

    async def main():
        call = Call(app)
        task = asyncio.create_task(call.run())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return call

    assert clock.run(main()).sent == []
    assert app.shedder.state()["running"] == 0


def test_the_applications_own_time_out_is_its_own(clock):
    with pytest.raises(TimeoutError, match="mine"):
        clock.run(Call(ResilienceMiddleware(raising(TimeoutError("mine")), default_timeout=5, clock=clock)).run())


# Shedding


def test_beyond_its_places_it_answers_503_and_says_when_to_come_again(clock):
    app = ResilienceMiddleware(sleeping(1), shedder=Shed(1, queue=1, max_wait=3, interval=9), clock=clock)

    async def main():
        return await asyncio.gather(*(Call(app).run() for _ in range(3)))

    first, second, third = clock.run(main())
    assert (first.status, second.status, third.status) == (200, 200, 503)
    assert clock.monotonic() == 2
    assert third.problem["code"] == "overloaded"
    assert third.headers["retry-after"] == "9"  # nothing known of the pace yet: one interval
    assert app.counters.shed == 1
    assert app.shedder.state()["running"] == 0


def test_the_deadline_bounds_the_wait_for_a_place(clock):
    app = ResilienceMiddleware(sleeping(10), shedder=Shed(1, max_wait=5), clock=clock)

    async def main():
        holder = asyncio.create_task(Call(app).run())
        await asyncio.sleep(0)
        call = await Call(app, {"Tenfold-Timeout-Ms": "300"}).run()
        assert clock.monotonic() == 0.3
        await holder
        return call

    assert clock.run(main()).status == 504
    assert app.shedder.state()["running"] == 0


def test_a_client_who_goes_while_it_waits_gives_up_its_turn(clock):
    seen = []
    app = ResilienceMiddleware(serving(lambda: asyncio.sleep(1), seen), shedder=Shed(1, max_wait=9), clock=clock)

    async def main():
        holder, gone = Call(app), Call(app)
        tasks = [asyncio.create_task(call.run()) for call in (holder, gone)]
        await asyncio.sleep(0.5)
        gone.disconnect()
        await tasks[1]
        assert clock.monotonic() == 0.5
        assert gone.sent == []
        await tasks[0]

    clock.run(main())
    assert len(seen) == 1
    assert app.counters.disconnected == 1
    assert app.shedder.state()["gone"] == 1


def test_the_body_that_came_while_it_waited_reaches_the_application(clock):
    got = []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            got.append(message["body"])
            if not message["more_body"]:
                break
        await asyncio.sleep(1)
        await answer(send)

    guarded = ResilienceMiddleware(app, shedder=Shed(1, max_wait=9, interval=9), clock=clock)

    async def main():
        task = asyncio.create_task(Call(guarded).run())
        await asyncio.sleep(0.5)
        second = Call(guarded, method="POST", body=(b"a" * 10, b"b" * 70_000, b"c" * 10, b"d"))
        waiting = asyncio.create_task(second.run())
        await asyncio.sleep(0.1)
        assert second.inbox.qsize() == 2  # reads ahead a little, not everything
        await task
        await waiting
        return second

    assert clock.run(main()).status == 200
    assert got[1:] == [b"a" * 10, b"b" * 70_000, b"c" * 10, b"d"]


def test_an_application_may_give_up_on_receive_and_ask_again(clock):
    asked = []

    async def app(scope, receive, send):
        asked.append((await receive())["type"])
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await receive()
        call.disconnect()
        asked.append((await receive())["type"])
        await answer(send)

    guarded = ResilienceMiddleware(app, shedder=Shed(1, max_wait=9, interval=9), clock=clock)

    async def main():
        nonlocal call
        call = Call(guarded)
        held = guarded.shedder.ask()
        waiting = asyncio.create_task(call.run())
        await asyncio.sleep(0.5)
        guarded.shedder.leave(held)
        await waiting

    call = None
    clock.run(main())
    assert asked == ["http.request", "http.disconnect"]


def test_nothing_is_left_waiting_on_receive(clock):
    app = ResilienceMiddleware(sleeping(1), shedder=Shed(1, max_wait=9, interval=9), clock=clock)

    async def main():
        await asyncio.gather(*(Call(app).run() for _ in range(3)))
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert clock.run(main()) == set()


# Rate limits


class Local:
    local = True

    def __init__(self, error=None):
        self.error, self.asked = error, []

    def admit(self, now, key=None, cost=1):
        self.asked.append((now, key))
        if self.error:
            raise self.error


class Remote(Local):
    local = False

    async def admit_async(self, now, key=None, cost=1):
        await asyncio.sleep(0.1)
        super().admit(now, key)

    def admit(self, now, key=None, cost=1):
        raise AssertionError("must not block the loop")


@pytest.mark.parametrize("kind", [Local, Remote])
def test_beyond_its_rate_a_client_gets_429(clock, kind):
    meter = kind(RateLimited("slow down", retry_after=2.1))
    seen = []
    app = ResilienceMiddleware(serving(seen=seen), rate_limit=meter, clock=clock)
    call = clock.run(Call(app).run())
    assert (call.status, call.headers["retry-after"]) == (429, "3")
    assert call.problem["title"] == "Too Many Requests"
    assert meter.asked == [(0.0, "10.0.0.9")]
    assert seen == []
    assert app.counters.rate_limited == 1


def test_the_key_is_the_users_and_the_rest_passes(clock):
    meter = Local()
    app = ResilienceMiddleware(serving(), rate_limit=meter, key=lambda scope: scope["path"], clock=clock)
    assert clock.run(Call(app, path="/a").run()).status == 200
    call = Call(ResilienceMiddleware(serving(), rate_limit=meter, clock=clock))
    call.scope["client"] = None
    clock.run(call.run())
    assert [key for _, key in meter.asked] == ["/a", None]


def test_a_client_beyond_its_rate_takes_no_place(clock):
    app = ResilienceMiddleware(serving(), rate_limit=Local(RateLimited("no")), shedder=Shed(1), clock=clock)
    call = clock.run(Call(app).run())
    assert (call.status, call.headers["retry-after"]) == (429, "1")
    assert app.shedder.state()["admitted"]["normal"] == 0


# Problems


@pytest.mark.parametrize(
    ("error", "status", "retry_after", "code"),
    [
        (BreakerOpen("b", retry_after=4.2), 503, "5", "breaker-open"),
        (BulkheadFull("b"), 503, None, "bulkhead-full"),
        (RateLimited("r", retry_after=0.01), 429, "1", "rate-limited"),
        (DeadlineExceeded("d"), 504, None, "deadline-exceeded"),
        (DeadlineTooShort("d", retry_after=3), 504, None, "deadline-too-short"),
        (AttemptTimeout("a"), 504, None, "attempt-timeout"),
    ],
)
def test_refusals_of_the_application_become_problems(clock, error, status, retry_after, code):
    app = ResilienceMiddleware(raising(error), clock=clock)
    call = clock.run(Call(app).run())
    assert (call.status, call.headers.get("retry-after")) == (status, retry_after)
    assert call.problem["code"] == code
    assert app.counters.translated == 1


@pytest.mark.parametrize("error", [ChaosFault("injected"), ValueError("a bug")])
def test_what_is_no_refusal_stays_what_it_is(clock, error):
    with pytest.raises(type(error)):
        clock.run(Call(ResilienceMiddleware(raising(error), clock=clock)).run())


def test_once_the_response_has_started_an_error_is_the_servers(clock):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise BreakerOpen("too late")

    call = Call(ResilienceMiddleware(app, clock=clock))
    with pytest.raises(BreakerOpen):
        clock.run(call.run())
    assert len(call.sent) == 1


def test_a_head_request_gets_the_headers_and_no_body(clock):
    app = ResilienceMiddleware(raising(BreakerOpen("b")), clock=clock)
    get, head = clock.run(Call(app).run()), clock.run(Call(app, method="HEAD").run())
    assert head.body == b""
    assert head.headers == get.headers
    assert int(head.headers["content-length"]) == len(get.body)


def test_types_and_explanations_are_by_choice(clock):
    app = ResilienceMiddleware(
        raising(BreakerOpen("payments is open")),
        problem_types="https://example.com/p/",
        explain=True,
        clock=clock,
    )
    problem = clock.run(Call(app).run()).problem
    assert problem["type"] == "https://example.com/p/breaker-open"
    assert problem["detail"] == "payments is open"


# Degradation


def test_the_level_stands_in_answers_and_refusals_above_zero(clock):
    degradation = Degradation(hub=Hub(), clock=clock)
    fine = ResilienceMiddleware(serving(), degradation=degradation, clock=clock)
    assert "tenfold-degradation" not in clock.run(Call(fine).run()).headers
    degradation.pin("limited", "10s", who="test", why="test")
    assert clock.run(Call(fine).run()).headers["tenfold-degradation"] == "2"
    refusing = ResilienceMiddleware(raising(BreakerOpen("b")), degradation=degradation, clock=clock)
    assert clock.run(Call(refusing).run()).headers["tenfold-degradation"] == "2"
    clock.jump(10)
    assert "tenfold-degradation" not in clock.run(Call(fine).run()).headers  # the pin has expired


@pytest.mark.parametrize(("drive", "level"), [(True, 1), (False, 0)])
def test_the_shedders_pressure_drives_the_level(clock, drive, level):
    degradation = Degradation(Degrade(smooth=0, step=60), hub=Hub(), clock=clock)
    app = ResilienceMiddleware(sleeping(1), shedder=Shed(1, queue=0), degradation=degradation, drive=drive, clock=clock)

    async def main():
        return await asyncio.gather(*(Call(app).run() for _ in range(5)))

    clock.run(main())
    assert degradation.level == level


# What passes


@pytest.mark.parametrize("kind", ["lifespan", "http"])
def test_lifespan_and_exempt_paths_pass_untouched(clock, kind):
    seen = []
    app = ResilienceMiddleware(
        serving(seen=seen), default_timeout=1, rate_limit=Local(RateLimited("no")), exempt=("/health",), clock=clock
    )
    call = Call(app, {"Tenfold-Timeout-Ms": "0"}, kind=kind, path="/health")
    if kind == "lifespan":
        del call.scope["headers"], call.scope["path"]
    clock.run(call.run())
    assert seen == [(NO_SCOPE, Priority.NORMAL)]
    assert app.counters.requests == 0


# Websockets


async def chatting(scope, receive, send):
    await asyncio.sleep(1)
    await send({"type": "websocket.accept"})
    await asyncio.sleep(9)
    await send({"type": "websocket.close"})


def test_a_websocket_takes_a_place_for_its_handshake_only(clock):
    app = ResilienceMiddleware(chatting, shedder=Shed(1, max_wait=5, interval=9), default_timeout=3, clock=clock)

    async def main():
        calls = [Call(app, kind="websocket") for _ in range(2)]
        tasks = [asyncio.create_task(call.run()) for call in calls]
        await asyncio.sleep(2.5)
        assert [[message["type"] for message in call.sent] for call in calls] == [["websocket.accept"]] * 2
        assert app.shedder.state()["running"] == 0
        await asyncio.gather(*tasks)
        return calls

    assert [call.sent[-1]["type"] for call in clock.run(main())] == ["websocket.close"] * 2
    assert clock.monotonic() == 11  # no deadline for an open connection


@pytest.mark.parametrize(
    ("extensions", "sent"),
    [
        ({}, ["websocket.close"]),
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
    ],
)
def test_a_websocket_beyond_the_places_is_denied(clock, extensions, sent):
    app = ResilienceMiddleware(chatting, shedder=Shed(1, queue=0), clock=clock)

    async def main():
        task = asyncio.create_task(Call(app, kind="websocket").run())
        await asyncio.sleep(0)
        denied = await Call(app, kind="websocket", extensions=extensions).run()
        await task
        return denied

    denied = clock.run(main())
    assert [message["type"] for message in denied.sent] == sent
    if extensions:
        assert (denied.status, denied.headers["retry-after"]) == (503, "1")
        assert denied.problem["code"] == "overloaded"
    else:
        assert denied.sent[0]["code"] == 1013


# Options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"default_timeout": 0}, "default_timeout: expected a duration above zero"),
        ({"max_timeout": "long"}, "max_timeout: expected a duration such as"),
        ({"max_priority": "top"}, "max_priority: expected one of"),
        ({"exempt": "/health"}, "exempt: expected several paths"),
        ({"rate_limit": 100}, "rate_limit: expected RateLimit options, or a live rate limit .* got 100"),
        ({"shedder": 50}, "shedder: expected a Shedder or Shed options, got 50"),
        ({"degradation": Degrade()}, "degradation: expected a Degradation, got Degrade"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(MisuseError, match=sentence):
        ResilienceMiddleware(serving(), **options)
    with pytest.raises(MisuseError, match="expected an ASGI application, got None"):
        ResilienceMiddleware(None)


def test_its_state_is_told(clock):
    counters = RequestCounters()
    shedder = Shedder(Shed(1), name="api", hub=Hub(), clock=clock)
    app = ResilienceMiddleware(serving(), shedder=shedder, counters=counters, clock=clock)
    clock.run(Call(app).run())
    assert counters.requests == 1
    assert app.state()["shedder"]["admitted"]["normal"] == 1
    assert json.loads(json.dumps(app.state()))["counters"]["requests"] == 1
    assert repr(app) == "<ResilienceMiddleware requests=1 shed=0 rate_limited=0 expired=0 stopped=0>"
