"""What must not type-check, with the code of the error that each line must have."""

from tenfold.testing import FakeClock, FaultProxy


async def number() -> int:
    return 1


def plain() -> int:
    return 1


clock = FakeClock()
clock.run(plain())  # E: arg-type
clock.run(number)  # E: arg-type
text: str = clock.run(number())  # E: assignment
FakeClock(0.0)  # E: call-arg
with FaultProxy("127.0.0.1:1") as proxy:  # E: attr-defined attr-defined
    pass


async def faults() -> None:
    clock.advance("5m")  # E: unused-coroutine
    async with FaultProxy(5432):  # E: arg-type
        pass
    async with FaultProxy("127.0.0.1:1") as proxy:
        proxy.delay("1s", "2s")  # E: call-arg
        proxy.freeze(direction="sideways")  # E: arg-type
        proxy.port = 5  # E: misc
        proxy.corrupt(None)  # E: arg-type
        await proxy.cut()  # E: misc
        proxy.stats().active = 3  # E: misc
