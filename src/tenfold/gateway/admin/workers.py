"""Whom an administrator's words reach: one process or several, or an engine that is another program.

What the answers must hold, for whoever speaks for another engine (`merge` goes by it):

- ``state``: ``pools``, by name with ``pick``, ``ready``, ``panic``, ``queued`` and ``endpoints``; these by id with
  ``url``, ``ready``, ``weight``, ``in_flight`` and, where it is known, ``state``, ``why``, ``declared_weight``,
  ``requests`` and ``failures``; beside them ``draining``, ``clients`` and ``counters`` (numbers by name). More may
  stand there.
- ``metrics``: ``metrics``, a list of ``{"name", "labels", "value"}`` with the names of `names`.
- ``purge``: ``purged``, a number. ``config``: ``config``. ``reload``: ``changes``, a list of sentences.
- ``events``: ``pid``, and ``events`` with ``seq``, ``time`` and ``type`` each; `MisuseError` where nothing is told.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tenfold.gateway.admin.control import Control


class Workers(Protocol):
    """All processes of a gateway, as the admin API sees them."""

    @property
    def count(self) -> int:
        """How many are alive."""
        ...

    async def call_all(self, method: str, params: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
        """One answer of each living worker, in the order of their numbers. Raises `TimeoutError` after ``timeout``
        seconds, and `MisuseError` for what makes no sense.
        """
        ...


class Here:
    """The one process there is, which is this one."""

    count = 1

    def __init__(self, control: Control) -> None:
        self._control = control

    async def call_all(self, method: str, params: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
        """As `Workers.call_all`."""
        async with asyncio.timeout(timeout):
            return [await self._control.call(method, params)]

    def __repr__(self) -> str:
        return f"<Here {self._control!r}>"
