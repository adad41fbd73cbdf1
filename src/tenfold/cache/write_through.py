"""Writing through: the origin first, then what became old goes.

The function stores, then the entries go, in this order: the other way round a reader in between would load the old
value and keep it. If the function raises or is cancelled nobody knows what was stored (a time-out may come after the
commit), so the entries go as well: that costs a load and is never stale. A load that began before the invalidation
finds its lease gone and is not kept, as after any invalidation.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from tenfold._core.errors import MisuseError
from tenfold.cache.keys import TagTemplates
from tenfold.cache.many import CachedMany

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache
    from tenfold.cache.declared import Declared

P = ParamSpec("P")
R = TypeVar("R")

_log: Final = logging.getLogger("tenfold.cache")


class _Entries:
    """Which entries of one cached function a writer's arguments name."""

    def __init__(self, declared: Declared, names: Sequence[str], writer: str) -> None:
        self._declared = declared
        own = list(
            inspect.signature(declared.function._function if declared.many else declared.function).parameters.values()
        )
        self._own = own
        self._one_id = declared.many and "id" in names
        if self._one_id:
            return
        missing = [one.name for one in own if one.name not in names and one.default is one.empty]
        if missing:
            raise MisuseError(
                f"{writer}: {declared.spec.name} needs {missing[0]!r}; expected a parameter of that name, "
                f"got {', '.join(names) or 'none'}; rename one, or say which entries by `tags=`"
            )

    def calls(self, arguments: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        if self._declared.many:
            return [(arguments["id"],)] if self._one_id else [(one,) for one in arguments[self._own[0].name]]
        return [tuple(arguments.get(one.name, one.default) for one in self._own)]

    async def refresh(self, arguments: Mapping[str, Any]) -> None:
        calls = self.calls(arguments)
        if self._declared.many:
            await self._declared.function.refresh([one for (one,) in calls])
            return
        positional, named = self._declared._split(calls[0])
        await self._declared.function.refresh(*positional, **named)

    def keys(self, arguments: Mapping[str, Any]) -> list[str]:
        return [self._declared.key(one) for one in self.calls(arguments)]


def through(
    cache: Cache,
    function: Callable[P, Awaitable[R]],
    declared: Sequence[Declared],
    tags: Sequence[str],
    *,
    refresh: bool,
) -> Callable[P, Awaitable[R]]:
    """See `Cache.write_through`."""
    name = f"write_through {getattr(function, '__qualname__', function)!s}"
    if isinstance(function, CachedMany) or not inspect.iscoroutinefunction(function):
        raise MisuseError(f"{name}: expected a function declared with `async def`, got {function!r}")
    signature = inspect.signature(function)
    names = list(signature.parameters)
    entries = [_Entries(one, names, name) for one in declared]
    templates = TagTemplates(tags, names, name)
    if not entries and not tags:
        raise MisuseError(f"{name}: expected cached functions or `tags=`, got neither; it would invalidate nothing")

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # Made before anything is stored: an argument that cannot be part of a key is refused in time.
        keys = [key for one in entries for key in one.keys(bound.arguments)]
        filled = templates.fill(bound.arguments)
        try:
            result = await function(*args, **kwargs)
        finally:
            if keys:
                await cache.invalidate(*keys)
            if filled:
                await cache.invalidate_tags(*filled)
        if refresh:
            for one in entries:
                try:
                    await one.refresh(bound.arguments)
                except Exception:  # noqa: BLE001 - stored and invalidated: the next reader loads
                    _log.warning("%s: stored, and could not be loaded anew", name, exc_info=True)
        return result

    return wrapper
