"""What the types of tenfold.load must allow: a scenario file under mypy strict."""

from tenfold.load import Journey, check, journey, step, target
from tenfold.load.answer import Answer
from tenfold.load.user import User

target("http://127.0.0.1:8000")


@journey
async def plain(user: User) -> None:
    with step("page"):
        answer = await user.get("/", headers={"Accept": "text/html"}, timeout="2s")
        check(answer.status == 200)
    await user.think(0.5, "2s")


@journey(weight=3, name="buying")
async def buy(user: User) -> None:
    with step("cart", expect=(201, 409)):
        answer: Answer = await user.post("/cart", json={"product": 7})
    length: int = len(answer.body)
    check(length > 0, "a body")
    await user.request("OPTIONS", "/", data=b"x")


found: tuple[Journey, Journey] = (plain, buy)
