"""Typed events: a feature says what happened, whoever cares subscribes, and neither knows the other.

An event is a frozen dataclass derived from `Event`. Emitting without a subscriber costs one look-up in a
dictionary, and `Hub.wants` spares even building the event. Handlers are plain functions called at once, in
the order of subscription; one that raises is reported and counted, and neither the emitter nor the handlers
after it notice.

The table of handlers is copied on write: `subscribe` and `cancel` build a new one under a lock and swap it
in, so `emit` takes no lock, and an event under way finishes with the handlers it started with.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from tenfold._core.errors import MisuseError

_log: Final = logging.getLogger("tenfold.events")


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event. Derive a frozen dataclass with slots that holds plain values, not live objects."""


E = TypeVar("E", bound=Event)
Handler = Callable[[E], object]


class Subscription(Generic[E]):
    """What `Hub.subscribe` returns.

    Whoever subscribed owns it and cancels it: by `cancel` or by a ``with`` block.
    """

    __slots__ = ("_handler", "_hub", "_reported", "failures", "kind")

    def __init__(self, hub: Hub, kind: type[E], handler: Handler[E]) -> None:
        self._hub = hub
        self._handler = handler
        self._reported = False
        self.kind: Final = kind
        self.failures = 0
        """How often the handler has raised."""

    @property
    def active(self) -> bool:
        """Whether the handler still receives events."""
        return self._hub.holds(self)

    def cancel(self) -> None:
        """Stop receiving. May be called twice, from any thread and from within the handler."""
        self._hub.drop(self)

    def deliver(self, event: E) -> None:
        """Call the handler.

        What it raises is logged the first time and counted every time, never passed on.
        """
        try:
            self._handler(event)
        except Exception:  # noqa: BLE001 - whatever a handler raises must not reach the emitter
            self.failures += 1
            self._hub.failures += 1
            if not self._reported:
                self._reported = True
                _log.exception("%r failed on %r; further failures of it are only counted", self._handler, event)

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = "active" if self.active else "cancelled"
        return f"<Subscription {self.kind.__name__} {state} failures={self.failures}>"


def _is_event_type(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


def _is_plain_function(handler: object) -> bool:
    return callable(handler) and not inspect.iscoroutinefunction(handler)


class _Table:
    """One immutable set of subscriptions and, filled in as events come, which of them each event type goes
    to.
    """

    __slots__ = ("routes", "subscriptions")

    def __init__(self, subscriptions: tuple[Subscription[Any], ...]) -> None:
        self.subscriptions: Final = subscriptions
        self.routes: Final[dict[type[Event], tuple[Subscription[Any], ...]]] = {}

    def route(self, kind: type[Event]) -> tuple[Subscription[Any], ...]:
        found = self.routes.get(kind)
        if found is None:
            # Two threads may both compute this; they compute the same, and storing into a dict is atomic.
            found = self.routes[kind] = tuple(s for s in self.subscriptions if issubclass(kind, s.kind))
        return found


class Hub:
    """Where events of one kind of program meet: emitters on one side, subscribers on the other.

    Thread-safe.
    """

    __slots__ = ("_lock", "_table", "failures")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table = _Table(())
        self.failures = 0
        """How often any handler has raised."""

    def subscribe(self, kind: type[E], handler: Handler[E]) -> Subscription[E]:
        """Call ``handler`` with every event of type ``kind``, events of derived types included.

        The handler runs in the emitter's thread and must not block. The hub holds it until the subscription
        is cancelled. Raises `MisuseError` for a ``kind`` that is no event type and for a coroutine function.
        """
        if not _is_event_type(kind):
            raise MisuseError(f"subscribe: expected an event type (a class derived from Event), got {kind!r}")
        if not _is_plain_function(handler):
            raise MisuseError(
                f"subscribe: expected a plain function of one event, got {handler!r}; to do asynchronous "
                "work, put the event into a queue that a task of yours reads"
            )
        subscription = Subscription(self, kind, handler)
        with self._lock:
            self._table = _Table((*self._table.subscriptions, subscription))
        return subscription

    def emit(self, event: Event) -> None:
        """Hand ``event`` to every subscriber of its type and of its base types.

        Never raises what a handler raises.
        """
        table = self._table
        if table.subscriptions:
            for subscription in table.route(type(event)):
                subscription.deliver(event)

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody would receive an event of that type: ask first where building the event costs
        something.
        """
        table = self._table
        return bool(table.subscriptions) and bool(table.route(kind))

    def holds(self, subscription: Subscription[Any]) -> bool:
        """Whether the subscription is active here."""
        return subscription in self._table.subscriptions

    def drop(self, subscription: Subscription[Any]) -> None:
        """What `Subscription.cancel` does."""
        with self._lock:
            kept = tuple(s for s in self._table.subscriptions if s is not subscription)
            if len(kept) != len(self._table.subscriptions):
                self._table = _Table(kept)

    def __repr__(self) -> str:
        return f"<Hub subscriptions={len(self._table.subscriptions)} failures={self.failures}>"


EVENTS: Final = Hub()
"""The hub that features emit to unless they are handed another."""
