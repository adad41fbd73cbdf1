"""What a loader may say about the value it makes, and ask about the one it replaces.

A loader does not take this as a parameter: parameters are the key. It asks for it::

    @cache("5m", stale="1h", eager=0.8)
    async def price_list(shop: str) -> Prices:
        ctx = load_context()
        answer = await http.get(url(shop), headers={"If-None-Match": ctx.etag or ""})
        if answer.status_code == 304:
            return ctx.not_modified()
        ctx.etag, ctx.ttl = answer.headers["etag"], max_age(answer)
        return parse(answer)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration, duration
from tenfold.cache.flight import ABSENT
from tenfold.cache.keys import check_tags


class LoadContext:
    """One load, as its loader sees it. Get it with `load_context`.

    What is set counts only if the load succeeds. With a loader of many, ``ttl`` and ``tags`` count for each of its
    values, and there is neither an old value nor an etag.
    """

    __slots__ = ("_etag", "_many", "_name", "_old", "_tags", "_ttl")

    def __init__(self, name: str, *, old: Any = ABSENT, etag: str | None = None, many: bool = False) -> None:
        self._name = name
        self._old, self._etag, self._many = old, etag, many
        self._ttl: float | None = None
        self._tags: tuple[str, ...] = ()

    @property
    def ttl(self) -> float | None:
        """The life of this value (seconds, or ``"5m"``), where it differs from the declaration (None).

        0: do not keep it.
        """
        return self._ttl

    @ttl.setter
    def ttl(self, value: Duration | None) -> None:
        self._ttl = None if value is None else duration(value, f"{self._name}: ctx.ttl")

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags beside the declared ones, known only now.

        A value with such tags is kept in level 1 only: whoever reads level 2 would have to know the tags beforehand to
        see that they were not invalidated.
        """
        return self._tags

    @tags.setter
    def tags(self, value: Sequence[str]) -> None:
        if isinstance(value, str):
            raise MisuseError(f'{self._name}: ctx.tags: expected a list such as ["catalog"], got the text {value!r}')
        self._tags = check_tags(tuple(value), f"{self._name}: ctx")

    @property
    def etag(self) -> str | None:
        """The name of this version at its origin. At the start that of the old value; set it to the new one's."""
        return self._etag

    @etag.setter
    def etag(self, value: str | None) -> None:
        given: object = value
        if self._many:
            raise MisuseError(f"{self._name}: ctx.etag: a loader of many has no etag; load the values one by one")
        if given is not None and (not isinstance(given, str) or len(given) > 1000):
            raise MisuseError(f"{self._name}: ctx.etag: expected a text of up to 1000 characters, got {value!r}")
        self._etag = value

    @property
    def has_stale(self) -> bool:
        """Whether there is an old value (which may itself be None)."""
        return self._old is not ABSENT

    @property
    def stale_value(self) -> Any:
        """The value that is being replaced; None where there is none, as after an invalidation."""
        return None if self._old is ABSENT else self._old

    def not_modified(self) -> Any:
        """The old value, to be returned: it is still right, and lives on as if loaded now.

        Raises `MisuseError` where there is no old value; `has_stale` tells.
        """
        if self._old is ABSENT:
            raise MisuseError(
                f"{self._name}: ctx.not_modified(): there is no old value; send an etag only if `ctx.has_stale`, "
                "and load the whole otherwise"
            )
        return self._old

    def __repr__(self) -> str:
        return f"LoadContext({self._name!r}, ttl={self._ttl}, tags={list(self._tags)}, has_stale={self.has_stale})"


_CURRENT: Final[ContextVar[LoadContext | None]] = ContextVar("tenfold.cache.load", default=None)


def load_context() -> LoadContext:
    """The load that runs this code. Outside of any, one that nobody reads: a loader can be called as it is."""
    return _CURRENT.get() or LoadContext("load_context()")


def enter(context: LoadContext) -> None:
    """From here on, in this task and those that it starts, `load_context` answers with ``context``, and there is no
    deadline.

    A load belongs to all who wait for it and outlives each of them, so the deadline of the caller who happened to be
    first is not its own (each caller still has theirs). That an outer layer retries is left as it is. A deadline can
    only have been set where `tenfold.resilience` is loaded; it is not loaded for this.
    """
    _CURRENT.set(context)
    scope = sys.modules.get("tenfold.resilience.scope")
    if scope is not None:
        _, retried = scope.SCOPE.get()
        scope.SCOPE.set((math.inf, retried))
