"""The external payment service: a process of its own, slow and sometimes failing, the same way for the same
seed.

What happens to an attempt is drawn from the seed, the idempotency key and the attempt's number, so a run can
be
repeated: latency is log-normal with a median of 25 ms and a 99th percentile of about 90 ms, two attempts in
a thousand take a second more, and one in a hundred is refused with 503. A key that was paid once is answered
from memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SIGMA = math.log(90 / 25) / 2.326  # puts the 99th percentile at 90 ms when the median is 25 ms
REMEMBERED = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the service treats its callers.

    seed: default 1. median: seconds, default 0.025. failures: share answered 503, default 0.01.
    hangs: share that takes ``hang`` seconds more (default 0.002 and 1.0). ``Behaviour.prompt()`` is for
    tests.
    """

    seed: int = 1
    median: float = 0.025
    failures: float = 0.01
    hangs: float = 0.002
    hang: float = 1.0

    def __post_init__(self) -> None:
        for name in ("failures", "hangs"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {value}")
        for name in ("median", "hang"):
            value = getattr(self, name)
            if not 0 <= value <= 60:
                raise ValueError(f"{name} must be from 0 to 60 seconds, got {value}")

    @classmethod
    def prompt(cls, *, failures: float = 0.0) -> Behaviour:
        """A service that answers at once, always the same way."""
        return cls(median=0.0, failures=failures, hangs=0.0)

    def attempt(self, key: str, number: int) -> tuple[float, bool]:
        """Seconds to wait, and whether the payment goes through, for attempt ``number`` of ``key``."""
        draw = random.Random(f"{self.seed}/{key}/{number}")
        seconds = self.median * math.exp(SIGMA * draw.gauss(0, 1))
        if draw.random() < self.hangs:
            seconds += self.hang
        return seconds, draw.random() >= self.failures


class PaymentService:
    """An ASGI application: ``POST /payments`` with ``Idempotency-Key`` and ``{"amount_cents": n}``."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.paid: OrderedDict[str, int] = OrderedDict()
        self.attempts: OrderedDict[str, int] = OrderedDict()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; anything but the two known paths is 404."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await _answer(send, 200, {"status": "ok"})
        elif scope["path"] == "/payments" and scope["method"] == "POST":
            await self._pay(scope, receive, send)
        else:
            await _answer(send, 404, {"detail": "post to /payments"})

    async def _pay(self, scope: Message, receive: Receive, send: Send) -> None:
        key = dict(scope["headers"]).get(b"idempotency-key", b"").decode("latin-1")
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > 10_000:
                await _answer(send, 413, {"detail": "a payment has at most 10,000 bytes"})
                return
            if not message.get("more_body"):
                break
        try:
            amount = json.loads(body)["amount_cents"]
        except (ValueError, KeyError, TypeError):
            amount = None
        if not key or not isinstance(amount, int):
            await _answer(send, 422, {"detail": "expected Idempotency-Key and an integer amount_cents"})
            return
        number = self.attempts.get(key, 0)
        _remember(self.attempts, key, number + 1)
        seconds, accepted = self.behaviour.attempt(key, number)
        await asyncio.sleep(seconds)  # the service's own work, which is what the shop has to live with
        if key in self.paid:
            amount = self.paid[key]
        elif not accepted:
            await _answer(send, 503, {"detail": "the bank does not answer"})
            return
        else:
            _remember(self.paid, key, amount)
        await _answer(send, 201, {"reference": f"pay-{key}", "amount_cents": amount})


def _remember(memory: OrderedDict[str, int], key: str, value: int) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve on loopback until SIGTERM or SIGINT."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m blackfriday.payment", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--median", type=float, default=0.025, help="seconds")
    parser.add_argument("--failures", type=float, default=0.01, help="share of attempts answered 503")
    parser.add_argument("--hangs", type=float, default=0.002, help="share of attempts that take a second more")
    given = parser.parse_args()
    behaviour = Behaviour(seed=given.seed, median=given.median, failures=given.failures, hangs=given.hangs)
    service: Any = PaymentService(behaviour)
    uvicorn.run(
        service,
        host="127.0.0.1",
        port=given.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
