"""The code in the page on sharding is pieces, not files: they are put together in their order and run on two shards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tenfold.db.shards import Outbox, ShardedCluster, TwoPhase
from tenfold.servers import Topology

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "sharding.md"


class Columns:
    """Those that the page leaves out."""

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    total: Mapped[int]
    placed: Mapped[int] = mapped_column(default=0)


class Base(Columns, DeclarativeBase):
    pass


class Bank(DeclarativeBase):
    pass


class Account(Bank):
    __tablename__ = "accounts"
    __shard_key__ = "customer"
    customer: Mapped[int] = mapped_column(primary_key=True)
    money: Mapped[int]


async def create(cluster: ShardedCluster) -> Outbox:
    for name in cluster.shards:
        async with cluster.async_engine(name).begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.run_sync(Bank.metadata.create_all)
    outbox = Outbox(cluster)
    await outbox.create_tables()
    await cluster.insert(Account, [{"customer": 1, "money": 10}, {"customer": 2, "money": 10}])
    return outbox


def story() -> str:
    """All pieces as one coroutine; the first ends within ``async with``, which the others need."""
    first, *others = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(others) == 3
    opened = re.sub(
        r"^async with ShardedCluster\((.*)\[Base\]\) as cluster:\n",
        r"async with ShardedCluster(\1[Base, Bank]) as cluster, TwoPhase(cluster) as two:\n"
        r"    outbox = await create(cluster)\n",
        first,
        flags=re.MULTILINE,
    )
    assert opened != first
    asked = "money = await cluster.execute(select(Account.money).order_by(Account.customer))\n"
    told = "return newest, cluster, money\n"
    pieces = [indent(opened, " " * 4), *[indent(piece, " " * 8) for piece in (*others, asked, told)]]
    return "async def told(print, url_a, url_b):\n" + "".join(pieces)


def test_the_pieces_of_the_page_run(plain: Callable[[int], Topology]) -> None:
    names: dict[str, Any] = {one.__name__: one for one in (Account, Bank, Base, ShardedCluster, TwoPhase, create)}
    names |= {"func": func, "select": select, "update": update}
    exec(story(), names)
    printed: list[Any] = []
    urls = [shard.url for shard in plain(2).shards]
    newest, cluster, money = asyncio.run(names["told"](printed.append, *urls))
    assert newest.all() == []  # it asks before anything was stored
    assert "avg" in str(printed[0])
    assert cluster.map.shards[311] == "a"
    assert cluster.map.epoch > 1
    assert money.scalars().all() == [5, 15]
