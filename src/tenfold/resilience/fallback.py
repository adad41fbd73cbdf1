"""What to answer when the call itself cannot be had: a value, or what another function makes of it.

A fallback is for failures of the world, not of the program. A wrong argument or a misspelt attribute would
otherwise turn into a silent stream of substitutes, so programming errors pass through unless one of them is named
in ``on``. A cancellation is no failure at all and always passes through.
"""

from __future__ import annotations

import asyncio
import builtins
import copy
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold.resilience import errors

Substitute = Callable[..., Any]
"""``function(error, *args, **kwargs)`` with the arguments of the call that failed; plain or ``async``."""


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING: Final = _Nothing()
PROGRAMMING_ERRORS: Final = (
    MisuseError,
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    SyntaxError,
    AssertionError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What a policy answers instead of raising.

    Give either ``value`` (a list, dictionary or set is copied for each caller) or ``call``, a function of the
    error and the arguments of the call: ``call(error, *args, **kwargs)``. ``on`` is a class of exceptions or
    several, or names of them (``"TimeoutError"``, ``"Rejected"``: Python's own and those of
    `tenfold.resilience`); by default every `Exception`. Programming errors (`MisuseError`, `TypeError`,
    `AttributeError`, …) only count where ``on`` names one of them or a class below. Raises `MisuseError` for what
    makes no sense, a cancellation in ``on`` included.
    """

    value: Any = field(default=NOTHING, kw_only=False)
    call: Substitute | None = None
    on: Any = (Exception,)

    def __post_init__(self) -> None:
        if (self.value is NOTHING) == (self.call is None):
            raise MisuseError(
                f"Fallback: expected either value or call, got value={self.value!r} and call={self.call!r}; "
                "a constant goes into value, a function of the error into call"
            )
        if self.call is not None and not callable(self.call):
            raise MisuseError(
                f"call: expected a function of (error, *args, **kwargs), got {self.call!r}; a constant goes into value"
            )
        object.__setattr__(self, "on", exceptions(self.on, "on"))


def exceptions(given: object, name: str) -> tuple[type[Exception], ...]:
    """Exception classes from a class, a name, or several of either. Raises `MisuseError` for anything else."""
    several = tuple(given) if isinstance(given, tuple | list | set | frozenset) else (given,)
    found = tuple(_exception(each, name) for each in several)
    if not found:
        raise MisuseError(f"{name}: expected at least one exception class, got none")
    return found


def _exception(given: object, name: str) -> type[Exception]:
    kind = given
    if isinstance(given, str):
        kind = getattr(errors, given, None) or getattr(builtins, given, None)
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise MisuseError(
            f'{name}: expected exception classes, or names such as "TimeoutError" and "Rejected", got {given!r}'
        )
    if not issubclass(kind, Exception):
        raise MisuseError(f"{name}: expected classes derived from Exception, got {kind.__name__}; it must pass through")
    return kind


@dataclass(frozen=True, slots=True)
class FallbackUsed(Event):
    """A call failed and the caller got a substitute. ``error`` is the name of the exception's class."""

    policy: str
    error: str


class Stopgap:
    """The live part of `Fallback`: decides which errors it answers, answers, counts. Thread-safe."""

    __slots__ = ("_hub", "_lock", "_waits", "failures", "options", "policy", "used")

    def __init__(self, options: Fallback, *, policy: str = "", hub: Hub = EVENTS) -> None:
        self.policy: Final = policy
        self.used = 0
        """Calls answered by the fallback."""
        self.failures = 0
        """Calls in which the fallback function raised, too."""
        self._hub = hub
        self._lock = threading.Lock()
        self.reconfigure(options)

    def reconfigure(self, options: Fallback) -> None:
        """Answer by other options; the counters stay."""
        self.options = options
        self._waits = _is_async(options.call)

    def check(self, function: Callable[..., Any]) -> None:
        """Refuse, when ``function`` is decorated, a fallback that it could not wait for."""
        if self._waits and not _is_async(function):
            raise MisuseError(
                f"fallback of policy {self.policy!r}: {_name(self.options.call)} is asynchronous and "
                f"{_name(function)} is not; give a plain function"
            )

    def handles(self, error: BaseException) -> bool:
        """Whether this error gets a substitute."""
        on = self.options.on
        if not isinstance(error, PROGRAMMING_ERRORS):
            return isinstance(error, on)
        return any(isinstance(error, kind) and issubclass(kind, PROGRAMMING_ERRORS) for kind in on)

    def answer(self, error: BaseException, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The substitute, for a plain function. Raises what the fallback function raises; call it where ``error``
        is being handled, and that has ``error`` as its context.
        """
        call = self.options.call
        if call is None:
            return self._value(error)
        if self._waits:
            raise MisuseError(
                f"fallback of policy {self.policy!r}: {_name(call)} is asynchronous and the call is not; "
                "give a plain function"
            )
        try:
            value = call(error, *args, **kwargs)
        except Exception:
            self._failed()
            raise
        self._done(error)
        return value

    async def answer_async(self, error: BaseException, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The substitute, for an asynchronous function; a plain fallback function will do and must not block."""
        call = self.options.call
        if call is None:
            return self._value(error)
        try:
            value = call(error, *args, **kwargs)
            if self._waits or inspect.isawaitable(value):
                value = await value
        except asyncio.CancelledError:
            raise
        except Exception:
            self._failed()
            raise
        self._done(error)
        return value

    def _value(self, error: BaseException) -> Any:
        value = self.options.value
        self._done(error)
        return fresh(value)

    def _done(self, error: BaseException) -> None:
        with self._lock:
            self.used += 1
        if self._hub.wants(FallbackUsed):
            self._hub.emit(FallbackUsed(self.policy, type(error).__name__))

    def _failed(self) -> None:
        with self._lock:
            self.failures += 1

    def state(self) -> dict[str, object]:
        """Counters, ready for JSON."""
        return {"used": self.used, "failures": self.failures}

    def __repr__(self) -> str:
        call = self.options.call
        what = f"value={self.options.value!r}" if call is None else f"call={_name(call)}"
        return f"<Stopgap {self.policy!r} {what} used={self.used} failures={self.failures}>"


def fresh(value: Any) -> Any:
    """A value of its own for each caller, where the value can be changed."""
    return copy.deepcopy(value) if isinstance(value, list | dict | set | bytearray) else value


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
