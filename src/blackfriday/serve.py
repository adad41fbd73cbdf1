"""``python -m blackfriday.serve``: the shop in the foreground until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack

from blackfriday.processes import NotReady
from blackfriday.settings import RUNGS, VARIANTS
from blackfriday.shop import PaymentProcess, Shop


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options; argparse says what is wrong with them and exits 2."""
    parser = argparse.ArgumentParser(prog="python -m blackfriday.serve", description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="baseline")
    parser.add_argument("--rung", choices=RUNGS, default=RUNGS[-1], help="of the tuned variant")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", required=True, help="URL of a seeded PostgreSQL (--seed seeds it)")
    parser.add_argument("--replica", action="append", default=[], help="URL; may be given several times")
    parser.add_argument("--shard", action="append", default=[], help="URL of a database for orders; several times")
    parser.add_argument("--valkey", default="", help="URL, such as redis://127.0.0.1:6379/0")
    parser.add_argument("--payment", default="", help="URL; without it a payment service is started")
    parser.add_argument("--warm", type=int, default=40_000, help="products loaded into the cache first")
    parser.add_argument("--seed", action="store_true", help="fill the database anew; what is in it is lost")
    return parser.parse_args(words)


async def serve(given: argparse.Namespace) -> None:
    """Open the shop, say where, and keep it open until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if given.seed:
        await _seed(given.database, given.shard)
    async with AsyncExitStack() as stack:
        payment = given.payment or (await stack.enter_async_context(PaymentProcess())).url
        shop = await stack.enter_async_context(
            Shop(
                variant=given.variant,
                rung=given.rung,
                workers=given.workers,
                port=given.port,
                database=given.database,
                replicas=given.replica,
                shards=given.shard,
                valkey=given.valkey,
                payment=payment,
                warm=given.warm,
            )
        )
        sys.stdout.write(f"{shop!r} answers at {shop.url}, documented at {shop.url}/docs\n")
        sys.stdout.flush()
        await stop.wait()


async def _seed(database: str, shards: list[str]) -> None:
    import asyncpg

    from blackfriday.domain import apply_indexes, create_order_tables, load

    connection = await asyncpg.connect(database)
    try:
        counts = await load(connection)
        await apply_indexes(connection)
    finally:
        await connection.close()
    for shard in shards:
        connection = await asyncpg.connect(shard)
        try:
            await create_order_tables(connection)
        finally:
            await connection.close()
    sys.stdout.write(f"seeded {', '.join(f'{count:,} rows of {table}' for table, count in counts.items())}\n")


def main() -> int:
    """Exit code 0 after a clean stop, 2 for options that cannot be, 1 if the shop does not come up."""
    given = parse()
    try:
        asyncio.run(serve(given))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (NotReady, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
