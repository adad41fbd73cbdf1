"""A timer that keeps microseconds.

Event loops count in milliseconds (libuv and epoll both), and an open-loop generator that releases its
arrivals on a millisecond grid makes bursts that the schedule never had. Linux has timerfd: a descriptor that
becomes readable at an absolute monotonic time. Elsewhere `Alarm` falls back to ``call_at`` and its
milliseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Spec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls ``callback`` at a time of `time.monotonic`; setting it anew replaces the earlier time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        self._set: Any = None
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._set = libc.timerfd_settime
            self._spec = _Spec()
            self._reference = ctypes.byref(self._spec)
            loop.add_reader(self._fd, self._ring)

    @property
    def precise(self) -> bool:
        """Whether the kernel's own timer is in use."""
        return self._fd >= 0

    def at(self, when: float) -> None:
        """Ring at ``when``; at once where that has passed."""
        if self._fd >= 0:
            seconds = int(when)
            value = self._spec.value
            value.seconds = seconds
            # Zero would disarm, and a time in the past rings at once.
            value.nanoseconds = max(1, int((when - seconds) * 1e9))
            self._set(self._fd, _ABSOLUTE, self._reference, None)
        else:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(0.0, when - monotonic()), self._callback)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew between the ring and this call
            return
        self._callback()

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
