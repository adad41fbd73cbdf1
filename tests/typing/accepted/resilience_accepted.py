"""What must type-check: `tenfold.resilience` and `tenfold.observe` as a service uses them."""

import asyncio
from datetime import UTC, datetime
from typing import assert_type

from tenfold.observe import PoliciesCollector
from tenfold.resilience import (
    AdaptiveLimit,
    Breaker,
    BreakerOpen,
    Bulkhead,
    Chaos,
    ConfigRejected,
    ConfigReloaded,
    Deadline,
    Fallback,
    Hedge,
    Hub,
    Policies,
    Policy,
    RateLimit,
    Registry,
    Rejected,
    Retry,
    load_policies,
    remaining,
)

registry: Registry[Policy] = Registry()
payments = Policy(
    "payments",
    deadline="2s",
    timeout=0.5,
    idempotent=True,
    retry=Retry(3, base="50ms", on=(TimeoutError, ConnectionError)),
    breaker=Breaker(ratio="50%", key=lambda order: order),
    limit=RateLimit("100/s", burst=20),
    bulkhead=Bulkhead(50, queue=100),
    hedge=Hedge("100ms", max_hedges=2),
    fallback=Fallback(None),
    chaos=Chaos(fault="5%", until=datetime.now(UTC), error=TimeoutError),
    registry=registry,
)
search = Policy("search", deadline=Deadline("1s"), limit=AdaptiveLimit(), registry=registry)


@payments
async def charge(order: int, *, currency: str = "EUR") -> str:
    return f"{order} {currency}"


@payments(idempotent=True)
async def status(order: int) -> bytes:
    return b""


@search
def find(text: str) -> list[int]:
    return [len(text)]


async def main() -> None:
    assert_type(await charge(7, currency="USD"), str)
    assert_type(await status(7), bytes)
    assert_type(find("shoes"), list[int])
    assert_type(search.call(find, "shoes"), list[int])
    assert_type(await payments.call(charge, 7, currency="USD"), str)
    async with search:
        assert_type(remaining(), float | None)
    try:
        await charge(7)
    except BreakerOpen as error:
        assert_type(error.retry_after, float | None)
    except Rejected as error:
        assert_type(error.policy, str)

    hub = Hub()
    policies = load_policies(
        "policies.toml", code={"payments": {"fallback": Fallback(call=lambda error: None)}}, hub=hub
    )
    assert_type(policies, Policies)
    assert_type(policies["payments"], Policy)
    assert_type(policies.reload(), tuple[str, ...])
    hub.subscribe(ConfigReloaded, lambda event: print(event.changes, event.added, event.removed))
    hub.subscribe(ConfigRejected, lambda event: print(event.problems))
    async with policies.watching("1s") as same:
        assert_type(same, Policies)

    assert_type(registry.get("payments"), Policy | None)
    assert_type([policy.name for policy in registry], list[str])
    PoliciesCollector(registry, files=[policies])
    PoliciesCollector()


asyncio.run(main())
