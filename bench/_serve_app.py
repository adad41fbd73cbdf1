"""The apps of `bench serve`: one that waits 50 ms with at most ten requests at once, and two that answer at once."""

from __future__ import annotations

import asyncio
from typing import Any

WAIT = 0.05
LIMIT = 10
_BODY = b"x" * 1024
_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"1024")],
}
_ANSWER = {"type": "http.response.body", "body": _BODY}
_places: asyncio.Semaphore | None = None


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def waiting(scope: Any, receive: Any, send: Any) -> None:
    """Ten at once, 50 ms each: 200 requests a second are what one worker can do."""
    global _places
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    if _places is None:
        _places = asyncio.Semaphore(LIMIT)
    async with _places:
        await asyncio.sleep(WAIT)
    await send(_HEAD)
    await send(_ANSWER)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """1 KiB, with no framework."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await send(_HEAD)
    await send(_ANSWER)


def fastapi() -> Any:
    """A small JSON answer by FastAPI."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def product(id: int = 7) -> dict[str, Any]:
        return {"id": id, "name": "a product", "price": "19.90", "tags": ["new", "sale"]}

    return app
