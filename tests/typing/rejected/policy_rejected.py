"""What the types of policies must refuse, with mypy's error code at the end of the line."""

from tenfold.resilience.policy import Policy
from tenfold.resilience.retry import Retry

policy = Policy("typed", deadline="2s", retry=Retry(3))


@policy
async def charge(order: int) -> str:
    return str(order)


@policy(idempotent="yes")  # E: call-overload untyped-decorator
def wrong_word(order: int) -> str:
    return str(order)


async def main() -> None:
    await charge("1")  # E: arg-type
    await charge(1, 2)  # E: call-arg
    number: int = await charge(1)  # E: assignment
    await policy.call(charge, "1")  # E: arg-type
    text: str = charge(1)  # E: assignment
    print(number, text)


Policy("wrong", retry=3)  # E: arg-type
Policy("wrong", deadine="2s")  # E: call-arg
Retry(3, jitter="some")  # E: arg-type
