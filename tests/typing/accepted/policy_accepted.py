"""What must type-check: a decorated function keeps its own type."""

from collections.abc import Awaitable, Callable
from typing import assert_type

from tenfold.resilience.deadline import carry, to_thread
from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retry

policy = Policy("typed", deadline="2s", retry=Retry(3))


@policy
async def charge(order: int, *, retries: bool = False) -> str:
    return f"{order}{retries}"


@policy(idempotent=True)
async def refund(order: int) -> bytes:
    return b""


@policy
def price(item: str) -> float:
    return float(item)


@policy(idempotent=True)
def stock(item: str) -> int:
    return int(item)


class Shop:
    @policy
    async def sell(self, item: str) -> int:
        return len(item)


async def main() -> None:
    assert_type(await charge(1, retries=True), str)
    assert_type(await refund(1), bytes)
    assert_type(price("1"), float)
    assert_type(stock("1"), int)
    assert_type(await Shop().sell("x"), int)
    assert_type(await policy.call(charge, 1, retries=True), str)
    assert_type(policy.call(price, "1"), float)
    assert_type(await to_thread(stock, "1"), int)
    assert_type(carry(price)("1"), float)
    async with policy as entered:
        assert_type(entered, Policy)
    with policy as again:
        assert_type(again, Policy)


later: Callable[[int], Awaitable[bytes]] = refund
