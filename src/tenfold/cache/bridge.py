"""Plain functions and level 2: a thread with an event loop of its own asks for them, and they wait.

A hit in level 1 is answered where it is asked for and never comes here. Everything else is what `engine` does for
coroutines (one load over all processes, staleness, notification), so a plain function gets the same by standing on it:
the calling thread hands the look-up to the loop's thread and waits for its answer.

The loader itself runs in the thread that called, because what it uses may be bound to that thread (a transaction, the
connections of Django): the load in the loop sends an *errand* back to it. Only when that thread does not wait any more
(it was served a stale value, or another thread's load), or must stay free to be served one (``soft_timeout``,
``hard_timeout``), the loader runs in one of a few worker threads.

The thread is started at the first look-up, once in each process: a fork's child, where it does not exist, starts
another.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tenfold._core.errors import MisuseError
from tenfold.cache.errors import LoadCancelled
from tenfold.cache.flight import Flight
from tenfold.cache.threads import PATIENCE

T = TypeVar("T")

WORKERS: Final = 8
_CLOSE_PATIENCE: Final = 15.0


class Bridge:
    """From threads into an event loop. Any thread may use it but the loop's own."""

    def __init__(self, name: str, *, patience: float = PATIENCE) -> None:
        self._name = name
        self._patience = patience
        self._lock = threading.Lock()
        self._home: tuple[asyncio.AbstractEventLoop, threading.Thread, Executor] | None = None
        _all.add(self)

    @property
    def stands(self) -> bool:
        """Whether its thread has been started."""
        return self._home is not None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, done in the loop. Raises what it raises."""
        future = self._begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # this thread was interrupted, or the work has failed
            raise

    def fetch(
        self, look_up: Callable[[Errand], Coroutine[Any, Any, Any]], load: Callable[[], Any], *, here: bool
    ) -> Any:
        """What ``look_up(errand)`` answers; ``load`` is the loader, which runs in this thread if ``here``."""
        errand = Errand(load, self._executor, here=here)
        future = self._begin(look_up(errand))
        try:
            if not errand.wait(future, self._patience):
                return load()
            return future.result()
        finally:
            future.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``last`` in the loop, and end the thread. Without a thread, nothing happens."""
        with self._lock:
            home, self._home = self._home, None
        if home is None:
            return
        loop, thread, executor = home
        try:
            asyncio.run_coroutine_threadsafe(last(), loop).result(_CLOSE_PATIENCE)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_PATIENCE)
            executor.shutdown(wait=False)

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        loop, thread, _ = self._settled()
        if thread is threading.current_thread():
            work.close()
            raise MisuseError(
                f"cache {self._name}: a plain function was called in the very thread that would have to answer it; "
                "call it from another thread, or declare it with `async def`"
            )
        return asyncio.run_coroutine_threadsafe(work, loop)

    def _executor(self) -> Executor:
        return self._settled()[2]

    def _settled(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread, Executor]:
        with self._lock:
            if self._home is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_live, args=(loop,), name=f"tenfold-cache-{self._name}", daemon=True)
                executor = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"tenfold-cache-{self._name}-load")
                thread.start()
                self._home = (loop, thread, executor)
            return self._home

    def _after_fork(self) -> None:
        """In the child: the thread is the parent's, and so is whoever held the lock."""
        self._lock = threading.Lock()
        _inherited.append(self._home)
        self._home = None


class Errand:
    """A loader that the loop wants run, on the way to the thread that waits for its value."""

    def __init__(self, load: Callable[[], Any], executor: Callable[[], Executor], *, here: bool) -> None:
        self._load = load
        self._executor = executor
        self._changed = threading.Condition()
        self._here = here
        self._wanted: tuple[contextvars.Context, Future[Any]] | None = None
        self._over = False

    async def run(self, _: Sequence[Flight]) -> Sequence[Any]:
        """In the loop: the loader's value."""
        context = contextvars.copy_context()  # with what `load_context` shall find
        value = self._hand_over(context)
        if value is not None:
            return [await asyncio.wrap_future(value)]
        return [await asyncio.get_running_loop().run_in_executor(self._executor(), context.run, self._load)]

    def _hand_over(self, context: contextvars.Context) -> Future[Any] | None:
        with self._changed:
            if not self._here:
                return None
            self._here = False
            value: Future[Any] = Future()
            self._wanted = (context, value)
            self._changed.notify()
            return value

    def wait(self, answer: Future[Any], patience: float) -> bool:
        """In the thread: run the loader if the loop wants it, until there is an answer. False if there was neither for
        ``patience`` seconds.
        """
        answer.add_done_callback(self._answered)
        with self._changed:
            told = self._changed.wait_for(lambda: self._wanted is not None or self._over, patience)
            self._here = False
        if self._wanted is None:
            return told
        if self._over:  # meanwhile there is an answer, an old value or another thread's: this thread may go
            self._executor().submit(self._serve, *self._wanted)
        else:
            self._serve(*self._wanted)
        return True

    def _serve(self, context: contextvars.Context, value: Future[Any]) -> None:
        if not value.set_running_or_notify_cancel():  # the loop is being closed
            return
        try:
            value.set_result(context.run(self._load))
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the value
            value.set_exception(error)
        except BaseException:
            value.set_exception(LoadCancelled("the thread that loaded was interrupted"))
            raise

    def _answered(self, _: Future[Any]) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()


_all: Final[weakref.WeakSet[Bridge]] = weakref.WeakSet()
_inherited: Final[list[Any]] = []
"""Of the parent; kept, because closing it would touch what the parent uses."""


def _after_fork() -> None:
    for bridge in list(_all):
        bridge._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
