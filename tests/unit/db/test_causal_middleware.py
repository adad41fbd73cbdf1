"""The middleware as an ASGI server sees it: what it reads, what it writes, and when it stays silent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tenfold._core.errors import MisuseError
from tenfold.db.causal_asgi import CausalityMiddleware, CookieOptions
from tenfold.db.causality import after_commit, wanted
from tenfold.db.position import Position
from tenfold.db.token import UNKNOWN, Token, TokenKeys

KEYS = TokenKeys([b"k" * 16])
MINE = Token(Position(7, 1, 50))
WRITTEN = Token(Position(7, 1, 100))


async def capture() -> Position:
    return Position(7, 1, 100)


class App:
    """Notes what a read would want, and writes if told to."""

    def __init__(self, write: Any = None) -> None:
        self.wanted: Token | None = None
        self.write = write

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.wanted = wanted()
        if self.write is not None:
            after_commit(self.write)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})


async def ask(middleware: CausalityMiddleware, *headers: tuple[str, str], kind: str = "http") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads")

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    await middleware({"type": kind, "headers": raw}, receive, send)
    return list(sent[0]["headers"])


def header(token: Token) -> tuple[str, str]:
    return "tenfold-causality", KEYS.sign(token)


def cookie(token: Token) -> tuple[str, str]:
    return "cookie", f"a=b; tenfold_causality={KEYS.sign(token)}; c=d"


async def test_a_request_that_only_reads_gets_nothing_back() -> None:
    app = App()
    for headers, want in (
        ([], None),
        ([header(MINE)], MINE),
        ([cookie(MINE)], MINE),
        ([header(MINE), cookie(WRITTEN)], WRITTEN),
        ([header(WRITTEN), cookie(MINE)], WRITTEN),
        ([header(UNKNOWN)], UNKNOWN),
    ):
        assert await ask(CausalityMiddleware(app, keys=KEYS), *headers) == [(b"x", b"y")]
        assert app.wanted == want


async def test_a_request_that_writes_gets_a_token_in_header_and_cookie() -> None:
    middleware = CausalityMiddleware(App(capture), keys=KEYS)
    first, answer, set_cookie = await ask(middleware, header(MINE))
    assert first == (b"x", b"y")
    text = KEYS.sign(WRITTEN)
    assert answer == (b"tenfold-causality", text.encode())
    assert set_cookie[0] == b"set-cookie"
    parts = set_cookie[1].decode().split("; ")
    assert parts == [f"tenfold_causality={text}", "Path=/", "Max-Age=300", "HttpOnly", "SameSite=Lax", "Secure"]
    assert (middleware.counters.read, middleware.counters.sent, middleware.counters.unknown) == (1, 1, 0)


async def test_it_goes_round() -> None:
    _, answer, set_cookie = await ask(CausalityMiddleware(App(capture), keys=KEYS))
    reader = App()
    await ask(CausalityMiddleware(reader, keys=KEYS), ("tenfold-causality", answer[1].decode()))
    assert reader.wanted == WRITTEN
    await ask(CausalityMiddleware(reader, keys=KEYS), ("cookie", set_cookie[1].decode().split(";")[0]))
    assert reader.wanted == WRITTEN


@pytest.mark.parametrize("bad", ["", "x", "\xff" * 50, "A" * 50, TokenKeys([b"other" * 4]).sign(MINE)])
async def test_a_bad_token_is_counted_and_sends_reads_to_the_primary(bad: str) -> None:
    app = App()
    middleware = CausalityMiddleware(app, keys=KEYS)
    assert await ask(middleware, ("tenfold-causality", bad)) == [(b"x", b"y")]
    assert (app.wanted, middleware.counters.bad) == (UNKNOWN, 1)
    await ask(middleware, ("cookie", f"tenfold_causality={bad}"), header(MINE))
    assert (app.wanted, middleware.counters.bad, middleware.counters.read) == (UNKNOWN, 2, 1)


async def test_a_primary_that_does_not_say_its_position_yields_unknown_in_time() -> None:
    async def fails() -> Position:
        raise OSError("gone")

    async def hangs() -> Position:
        await asyncio.Event().wait()
        raise AssertionError

    for write in (fails, hangs):
        middleware = CausalityMiddleware(App(write), keys=KEYS, within="30ms")
        _, answer, _ = await ask(middleware)
        assert KEYS.read(answer[1].decode()) == UNKNOWN
        assert middleware.counters.unknown == 1


async def test_of_several_systems_the_one_that_does_not_answer_is_unknown() -> None:
    async def hangs() -> Position:
        await asyncio.Event().wait()
        raise AssertionError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        after_commit(hangs, None, 8)
        after_commit(capture, None, 7)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    middleware = CausalityMiddleware(app, keys=KEYS, within="50ms")
    answer, set_cookie = await ask(middleware, header(Token(Position(9, 1, 1))))
    token = Token(Position(7, 1, 100), Position(9, 1, 1), unknown=[8])
    assert KEYS.read(answer[1].decode()) == token
    assert middleware.counters.unknown == 1
    reader = App()
    await ask(CausalityMiddleware(reader, keys=KEYS), ("cookie", set_cookie[1].decode().split(";")[0]))
    assert reader.wanted == token


async def test_without_cookies_none_is_read_or_set() -> None:
    app = App(capture)
    answered = await ask(CausalityMiddleware(app, keys=KEYS, cookie=None), cookie(MINE))
    assert [name for name, _ in answered] == [b"x", b"tenfold-causality"]
    assert app.wanted is None


async def test_other_kinds_of_scope() -> None:
    app = App()
    assert await ask(CausalityMiddleware(app, keys=KEYS), header(MINE), kind="websocket") == [(b"x", b"y")]
    assert app.wanted == MINE
    await ask(CausalityMiddleware(app, keys=KEYS), header(MINE), kind="lifespan")
    assert app.wanted is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_age": "10ms"}, "max_age: expected at least 1s"),
        ({"same_site": "lax"}, "same_site: expected"),
        ({"same_site": "None", "secure": False}, "browsers refuse"),
        ({"path": "x"}, "path: expected"),
        ({"path": "/; Domain=x"}, "path: expected"),
    ],
)
def test_cookies_that_browsers_refuse(options: Any, sentence: str) -> None:
    with pytest.raises(MisuseError, match=sentence):
        CookieOptions(**options)


def test_misuse() -> None:
    with pytest.raises(MisuseError, match="keys: expected TokenKeys"):
        CausalityMiddleware(App(), keys=b"secret")  # type: ignore[arg-type]
    with pytest.raises(MisuseError, match="expected an ASGI application"):
        CausalityMiddleware(7, keys=KEYS)  # type: ignore[arg-type]
