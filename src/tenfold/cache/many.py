"""The decorator of loaders of many: one dictionary look-up an id, one load for all the ids that are missing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tenfold._core.errors import MisuseError
from tenfold.cache.entry import Entry
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.hit import PLAIN, text_of
from tenfold.cache.keys import TagTemplates, encode, parameters_of
from tenfold.cache.lookup import Spec, Wanted
from tenfold.cache.tags import EPOCH

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

K = TypeVar("K")
V = TypeVar("V")


class CachedMany(Generic[K, V]):
    """A cached loader of many: give it ids, get a dictionary; the loader sees only the ids that are cached
    nowhere.

    Ids that the loader does not return are left out of the answer and asked for again next time.
    """

    def __init__(
        self,
        cache: Cache,
        function: Callable[[list[K]], Awaitable[dict[K, V]]],
        spec: Spec,
        tags: Sequence[str],
    ) -> None:
        parameters = parameters_of(function, spec.name)
        if len(parameters) != 1:
            raise MisuseError(f"{spec.name}: expected one parameter, the list of ids, got {len(parameters)}")
        self._cache, self._function, self._spec = cache, function, spec
        self._prefix = spec.name + "("
        if not inspect.iscoroutinefunction(function):
            raise MisuseError(f"{spec.name}: expected a function declared with `async def`, got {function!r}")
        self._templates = TagTemplates(tags, ["id"], spec.name)
        self._epoch: dict[str, Any] = {}
        self._path = cache.near.hit_path(self._epoch)
        self._look = cache.near.look
        self._home: dict[Any, Entry] = {}
        functools.update_wrapper(cast("Any", self), function)

    async def __call__(self, ids: Iterable[K]) -> dict[K, V]:
        """The values of ``ids``, each id once, in the order asked for."""
        if not self._spec.memory:
            return await self._fetch({}, self._keyed(ids))
        found: dict[K, Any] = {}
        missing: dict[K, Any] = {}
        home, touch, epoch, now = self._home, self._path.memory.touch, self._epoch[EPOCH], self._path.now()
        for one, raw in self._keyed(ids).items():
            try:
                entry = home[raw]
            except KeyError:
                missing[one] = raw
            else:
                # As in a compiled wrapper: from the look-up to the addition nothing at which threads switch.
                if entry.epoch is epoch and entry.until > now:
                    entry.n += 1.0
                    found[one] = entry.value
                    if touch is not None:
                        touch(entry)
                    continue
                missing[one] = raw
            found[one] = ABSENT  # keeps its place in the order
        return await self._fetch(found, missing) if missing else found

    async def _fetch(self, found: dict[K, Any], missing: dict[K, Any]) -> dict[K, V]:
        if self._cache.is_disabled():
            loaded = await self._load([Flight(None, "", (), 0, one) for one in missing])
            found.update(zip(missing, loaded, strict=True))
            return {one: value for one, value in found.items() if value is not ABSENT}
        wanted: list[Wanted] = []
        for one, raw in missing.items():
            key = self._text(raw)
            found[one] = self._look(key) if self._spec.memory else ABSENT
            if found[one] is ABSENT:
                wanted.append(Wanted(key, self._templates.fill({"id": one}), one))
        if wanted:
            values = await self._cache.engine().fetch(self._spec, wanted, self._load)
            found.update((one.subject, value) for one, value in zip(wanted, values, strict=True))
        if self._spec.memory:
            for raw in missing.values():
                self._path.memory.link(self._text(raw), self._home, raw)
        return {one: value for one, value in found.items() if value is not ABSENT}

    async def refresh(self, ids: Iterable[K]) -> dict[K, V]:
        """Load ``ids`` anew, replace what is cached and return it."""
        wanted = [
            Wanted(self._text(raw), self._templates.fill({"id": one}), one) for one, raw in self._keyed(ids).items()
        ]
        if not wanted:
            return {}
        values = await self._cache.engine().refresh(self._spec, wanted, self._load)
        return {one.subject: value for one, value in zip(wanted, values, strict=True) if value is not ABSENT}

    async def invalidate(self, *ids: K) -> bool:
        """Forget these ids. False if level 2 did not confirm it (it is repeated until it does)."""
        return await self._cache.invalidate(*[self.key(one) for one in ids])

    def key(self, one: K) -> str:
        """The key of one id's entry."""
        return self._text(self._raw(one))

    def _raw(self, one: K) -> Any:
        return one if type(one) in PLAIN else (encode(one, self._spec.name, "id"),)

    def _text(self, raw: Any) -> str:
        return text_of(raw, self._prefix, 1)

    def _keyed(self, ids: Iterable[K]) -> dict[K, Any]:
        """Each id once, with its raw key. Ids that are equal but not of one type would share a place in the
        answer.
        """
        unique: dict[K, Any] = {}
        for one in ids:
            raw = one if type(one) in PLAIN else self._raw(one)
            if unique.setdefault(one, raw) != raw:
                raise MisuseError(
                    f"{self._spec.name}: expected ids of one type, got {one!r} and another id equal to it"
                )
        return unique

    async def _load(self, flights: Sequence[Flight]) -> Sequence[Any]:
        ids = [flight.subject for flight in flights]
        loaded = await self._function(ids)
        if not isinstance(loaded, dict):
            raise MisuseError(
                f"{self._spec.name}: expected the loader to return a dict, got {type(loaded).__qualname__}"
            )
        return [loaded.get(one, ABSENT) for one in ids]
