"""The shop as a running thing: worker processes of one variant, ready when the block begins and gone when it
ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from blackfriday.gate import Gate
from blackfriday.processes import POLL, Child, NotReady, free_port, import_path, python
from blackfriday.settings import Rung, Settings, Variant

if TYPE_CHECKING:
    from blackfriday.payment import Behaviour

START_ATTEMPTS = 3
WARM_PATIENCE = 60.0


class PaymentProcess:
    """The external payment service as a process: ``async with PaymentProcess() as payment: payment.url``."""

    def __init__(self, behaviour: Behaviour | None = None, *, within: float = 20.0) -> None:
        from blackfriday.payment import Behaviour

        self.behaviour = behaviour or Behaviour()
        self.url = ""
        self._within = within
        self._child: Child | None = None

    async def __aenter__(self) -> PaymentProcess:
        port = free_port()
        how = self.behaviour
        self._child = Child(
            "the payment service",
            python(
                "-m", "blackfriday.payment", "--port", str(port), "--seed", str(how.seed),
                "--median", str(how.median), "--failures", str(how.failures), "--hangs", str(how.hangs),
            ),
            import_path(),
        )  # fmt: skip
        try:
            await self._child.start()
            await self._child.ready(port, within=self._within)
        except BaseException:
            await _shielded(self._child.stop())
            raise
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            await _shielded(self._child.stop())

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """The service takes connections and answers nothing while the block runs: the worst kind of being away."""
        if self._child is None:
            raise NotReady("the payment service is not open: use it with async with")
        os.kill(self._child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGCONT)


class Shop:
    """Worker processes of one variant behind one port of loopback; at the rung ``edge`` behind a gateway.

    ``async with Shop(variant="tuned", rung="cache", workers=2, database=url, valkey=url, payment=url) as
    shop: shop.url``

    variant, rung, database, replicas, shards, valkey, payment: as in :class:`blackfriday.settings.Settings`.
    workers: processes of the server (1 to 64, default 1); the same server for every variant.
    port: where clients come in; 0 takes a free one. within: seconds until the first ``/health`` (default 30).
    warm: how many of the most viewed products are loaded into the cache before the block begins, with the
    first two pages of every listing and category; only from the rung ``cache`` on, 0 = start cold. What it
    did is in :attr:`warmed`.

    Raises ValueError for settings that cannot be, :class:`NotReady` with the last words of the server if it
    does not come up. Cancellation at any point leaves no process behind.
    """

    def __init__(
        self,
        *,
        variant: Variant = "baseline",
        rung: Rung = "replicas",
        workers: int = 1,
        database: str,
        replicas: Sequence[str] = (),
        shards: Sequence[str] = (),
        valkey: str = "",
        payment: str = "",
        port: int = 0,
        warm: int = 40_000,
        within: float = 30.0,
    ) -> None:
        if not 1 <= workers <= 64:
            raise ValueError(f"workers must be from 1 to 64, got {workers}")
        if not 0 <= warm <= 1_000_000:
            raise ValueError(f"warm must be from 0 to 1,000,000 products, got {warm}")
        self._counters = ""
        self.settings = Settings(
            variant=variant,
            rung=rung,
            database=database,
            replicas=tuple(replicas),
            shards=tuple(shards),
            causality=secrets.token_hex(16),
            valkey=valkey,
            payment=payment,
        )
        self.workers = workers
        self.port = port
        self.warmed: dict[str, int] = {}
        self._fixed_port = port
        self._warm = warm
        self._within = within
        self._child: Child | None = None
        self._gate: Gate | None = None

    def __repr__(self) -> str:
        rung = f" at {self.settings.rung}" if self.settings.variant == "tuned" else ""
        return f"<Shop {self.settings.variant}{rung}, {self.workers} workers, port {self.port}>"

    @property
    def url(self) -> str:
        """Where the shop answers: the gateway, where there is one."""
        return self.direct if self._gate is None else self._gate.url

    @property
    def direct(self) -> str:
        """Where the workers answer."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def gate(self) -> Gate | None:
        """The gateway before the workers, at the rung ``edge``."""
        return self._gate

    @property
    def pid(self) -> int:
        """The id of the server's main process, which is that of the group of its workers."""
        if self._child is None:
            raise NotReady("the shop is not open: use it with async with")
        return self._child.pid

    @property
    def words(self) -> str:
        """The last lines that the server wrote."""
        return self._child.words() if self._child is not None else ""

    async def stats(self) -> dict[str, int]:
        """The counters of all workers together; see :data:`blackfriday.counters.NAMES`."""
        return await self._call("GET", "/internal/stats", within=10.0)

    async def edited(self, product: int) -> None:
        """Tell the shop that a product has changed in the database, on all replicas too."""
        await self._call("POST", f"/internal/edited?product={product}", within=10.0)

    async def __aenter__(self) -> Shop:
        self._counters = tempfile.mkdtemp(prefix="blackfriday-")
        try:
            for attempt in range(1, START_ATTEMPTS + 1):
                try:
                    await self._start()
                    break
                except NotReady as error:
                    await self._stop_child()
                    # Between finding a free port and listening on it, somebody else may have taken it.
                    words = str(error).lower()
                    lost = "in use" in words or "addrinuse" in words
                    if self._fixed_port or not lost or attempt == START_ATTEMPTS:
                        raise
            if self.settings.includes("cache"):
                # What an earlier shop left in Valkey may be of another database, and would flatter this
                # one's start.
                await self._call("POST", "/internal/clear", within=10.0)
            if self._warm and self.settings.includes("cache"):
                path = f"/internal/warm?products={self._warm}"
                self.warmed = await self._call("POST", path, within=WARM_PATIENCE)
        except BaseException:
            await _shielded(self._close())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _shielded(self._close())

    async def _start(self) -> None:
        environment = self.settings.to_environment()
        environment["BLACKFRIDAY_COUNTERS"] = self._counters
        if self.settings.includes("edge"):
            gate = self._gate = Gate(self._fixed_port, within=self._within)
            self.port = free_port()
            environment |= {"BLACKFRIDAY_EDGE": gate.admin, "BLACKFRIDAY_EDGE_TOKEN": gate.token}
        else:
            self.port = self._fixed_port or free_port()
        command = python(
            "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", str(self.workers), "--loop", "uvloop", "--http", "1", "--no-ws", "--no-access-log",
            "--log-level", "warning", "--backlog", "2048", "--workers-kill-timeout", "3",
            "blackfriday.asgi:app",
        )  # fmt: skip
        self._child = Child(f"the {self.settings.variant} shop", command, {**environment, **import_path()})
        await self._child.start()
        await self._child.ready(self.port, within=self._within)
        await self._all_workers()
        if self._gate is not None:
            await self._gate.start(self.port)

    async def _all_workers(self) -> None:
        """Wait until every worker has opened its counters: the first answer comes from the first of them."""
        async with asyncio.timeout(self._within):
            while (await self.stats())["workers"] < self.workers:  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL)

    async def _call(self, method: str, path: str, *, within: float) -> dict[str, int]:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close"
                writer.write(f"{head}\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
        top, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in top.split(b"\r\n", 1)[0]:
            raise NotReady(f"{method} {path} was answered {top[:60]!r}: {self.words}")
        result: dict[str, int] = json.loads(body)
        return result

    async def _stop_child(self) -> None:
        child, self._child = self._child, None
        gate, self._gate = self._gate, None
        async with asyncio.TaskGroup() as stopping:
            for each in (gate, child):
                if each is not None:
                    stopping.create_task(each.stop())

    async def _close(self) -> None:
        try:
            await self._stop_child()
        finally:
            await asyncio.to_thread(shutil.rmtree, self._counters, ignore_errors=True)


async def _shielded(work: object) -> None:
    """Finish ``work`` even when the caller is cancelled meanwhile, then let the cancellation go on."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
