"""What the types of tenfold.resilience must refuse, with mypy's error code at the end of the line."""

from tenfold.resilience import Breaker, Bulkhead, Chaos, Hedge, Policy, Retry, load_policies

payments = Policy("payments", deadline="2s", retry=Retry(3))


@payments
async def charge(order: int) -> str:
    return str(order)


async def main() -> None:
    await charge("7")  # E: arg-type
    await charge(7, currency="USD")  # E: call-arg
    number: int = await charge(7)  # E: assignment
    await payments.call(charge, "7")  # E: arg-type
    print(number, charge(7).upper())  # E: attr-defined


Policy("p", retry=3)  # E: arg-type
Policy("p", breaker=Retry())  # E: arg-type
Policy("p", bulkhead=50)  # E: arg-type
Policy("p", deadlin="2s")  # E: call-arg
Policy(deadline="2s")  # E: call-arg
Retry(attempts="3")  # E: arg-type
Breaker(0.5)  # E: call-arg
Bulkhead("many")  # E: arg-type
Hedge(max_hedges=0.5)  # E: arg-type
Chaos(fault="5%", until="tomorrow")  # E: arg-type
load_policies("policies.toml")["payments"].reload()  # E: attr-defined
load_policies("policies.toml").watch()  # E: attr-defined
