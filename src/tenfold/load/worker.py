"""One load process: ``python -m tenfold.load.worker``, started by `tenfold.load.run` and by nobody else.

Orders come on stdin, words go out on stdout; what journeys print lands on stderr. When stdin closes the
parent is gone, and the process ends too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable
from time import monotonic

from tenfold._core.errors import MisuseError
from tenfold.load import frames
from tenfold.load.frames import Done, Go, Ready, Refused, Report, Spec
from tenfold.load.recorder import Delta
from tenfold.load.schedule import from_dict


class _Orders(asyncio.Protocol):
    """Cuts stdin into frames."""

    def __init__(self, on_order: Callable[[frames.Order], None], on_end: Callable[[], None]) -> None:
        self._buffer = bytearray()
        self._on_order, self._on_end = on_order, on_end

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[4:end])
            del self._buffer[:end]
            self._on_order(frames.order(body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_end()


class _Out(asyncio.BaseProtocol):
    """Knows when the last word has left."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class _Worker:
    def __init__(self, out: int) -> None:
        self._out = out
        self._spec: asyncio.Future[Spec] = asyncio.get_running_loop().create_future()
        self._go: asyncio.Future[Go] = asyncio.get_running_loop().create_future()
        self._stop: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._orphaned: Callable[[], None] = lambda: os._exit(3)
        self._writer: asyncio.WriteTransport

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        transport, out = await loop.connect_write_pipe(_Out, os.fdopen(self._out, "wb", 0))
        self._writer = transport
        reader, _ = await loop.connect_read_pipe(lambda: _Orders(self._take, lambda: self._orphaned()), sys.stdin)
        try:
            await self._work(await self._spec)
        finally:
            self._writer.close()
            # A parent that stopped reading closes stdin too, and that ends the wait.
            async with asyncio.timeout(10):
                await out.closed
            self._orphaned = lambda: None
            reader.close()

    def _take(self, order: frames.Order) -> None:
        if isinstance(order, Spec):
            self._spec.set_result(order)
        elif isinstance(order, Go):
            self._go.set_result(order)
        elif not self._stop.done():
            self._stop.set_result(order.drain)
            if not self._go.done():
                self._go.cancel()

    def _say(self, word: frames.Word) -> None:
        self._writer.write(frames.pack(word))

    async def _work(self, spec: Spec) -> None:
        try:
            from tenfold.load.engine import Engine
            from tenfold.load.scenario import load_scenario
        except ImportError as error:
            self._say(Refused("misuse", f"load: expected httptools, got: {error}; install tenfold[load]"))
            return
        try:
            scenario = load_scenario(spec.source, spec.target)
            engine = Engine(
                scenario,
                from_dict(spec.schedule),
                seed=spec.seed,
                process=spec.process,
                processes=spec.processes,
                warmup=spec.warmup,
                timeout=spec.timeout,
                max_connections=spec.max_connections,
            )
        except MisuseError as error:
            self._say(Refused("misuse", str(error)))
            return
        try:
            await engine.prepare(spec.connections)
        except TimeoutError:
            self._say(Refused("target", f"{spec.target} did not accept a connection within 5 s"))
            return
        except ssl.SSLError as error:
            self._say(Refused("target", f"the TLS handshake with {spec.target} failed: {error}"))
            return
        except OSError as error:
            reason = error.strerror or str(error)
            self._say(Refused("target", f"nothing listens at {spec.target} ({reason}); start the service first"))
            return
        self._say(Ready(os.getpid()))
        try:
            go = await self._go
        except asyncio.CancelledError:
            await engine.close()
            return
        run = asyncio.create_task(engine.run(go.start, spec.drain))
        try:
            while not run.done():
                await asyncio.wait([run], timeout=0.2)
                if self._stop.done() and not engine.stopping:
                    engine.stop(self._stop.result())
                if not run.done():
                    self._report(engine)
            await run
            self._report(engine)
            self._say(
                Done(
                    health=engine.health(),
                    dropped=engine.dropped,
                    retries=engine.retries,
                    unfinished=engine.unfinished,
                    tracebacks=engine.tracebacks,
                )
            )
        finally:
            run.cancel()
            await engine.close()

    def _report(self, engine: object) -> None:
        from tenfold.load.engine import Engine

        assert isinstance(engine, Engine)
        engine.recorder.in_flight(monotonic(), engine.in_flight)
        steps, intervals = engine.recorder.take()
        self._say(
            Report(
                Delta(
                    steps=steps,
                    intervals=intervals,
                    started=engine.started,
                    in_flight=engine.in_flight,
                    most=engine.most,
                )
            )
        )


def main() -> None:
    """Entry point of the process."""
    out = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 65_536:
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        import uvloop
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop

    async def go() -> None:
        await _Worker(out).main()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(go())


if __name__ == "__main__":
    main()
