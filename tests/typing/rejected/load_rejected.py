"""What the types of tenfold.load must refuse, with mypy's error code at the end of the line."""

from tenfold.load import journey
from tenfold.load.user import User


@journey  # E: arg-type
def not_a_coroutine(user: User) -> None: ...


@journey(weight="much")  # E: call-overload untyped-decorator
async def wrong_weight(user: User) -> None: ...


@journey
async def browse(user: User) -> None:
    await user.get("/", heads={})  # E: call-arg
    await user.post("/", timeout=[])  # E: arg-type
    print(user.get("/").status)  # E: attr-defined
    text: str = (await user.get("/")).status  # E: assignment
    print(text)
