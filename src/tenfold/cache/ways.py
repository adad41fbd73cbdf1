"""How a call is answered that the hit path of `hit` could not answer: a class for each kind of function.

| function | level 2, or more than a TTL | way |
|---|---|---|
| ``async def`` | any | `Awaited`; without level 1 `Remote` |
| plain | no | `Threaded`: in the calling thread (see `threads`) |
| plain | yes | `Bridged`: through a loop in a thread of the cache's own (see `bridge`) |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tenfold.cache.bridge import Errand
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.hit import Compiled, text_of
from tenfold.cache.keys import TagTemplates
from tenfold.cache.lookup import Spec, Wanted, names
from tenfold.cache.request import DOWN

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

_KNOWN_NAMES: Final = 10_000
"""Calls whose names in level 2 a function without level 1 remembers."""


class Way:
    """What all have in common. ``ahead`` are the positional-only parameters, ``count`` how many make up the key,
    ``own_key`` whether the user makes it. ``made`` is set once the wrapper is compiled.
    """

    made: Compiled

    def __init__(
        self,
        cache: Cache,
        function: Callable[..., Any],
        spec: Spec,
        templates: TagTemplates,
        *,
        ahead: Sequence[str],
        count: int,
        own_key: bool,
    ) -> None:
        self.cache, self.function, self.spec, self.templates = cache, function, spec, templates
        self.ahead, self.count, self.own_key = ahead, count, own_key
        self.prefix = spec.name + "("
        self.look = cache.near.look

    miss: Callable[..., Any]
    refresh: Callable[..., Any]
    invalidate: Callable[..., Any]

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The text of the key of this call."""
        return text_of(self.made.bind(*args, **kwargs)[0], self.prefix, self.count)

    def call(self, arguments: dict[str, Any]) -> Any:
        """The function itself."""
        if not self.ahead:
            return self.function(**arguments)
        named = {name: value for name, value in arguments.items() if name not in self.ahead}
        return self.function(*[arguments[name] for name in self.ahead], **named)

    def wanted(self, raw: Any, arguments: dict[str, Any]) -> Wanted:
        return Wanted(text_of(raw, self.prefix, self.count), self.templates.fill(arguments))

    def known(self, one: Wanted, raw: Any) -> Any:
        """For what was loaded by another way, or met an invalidation: the next hit is a fast one again."""
        value = self.look(one.key)
        if value is not ABSENT:
            self.link(one, raw)
        return value

    def link(self, one: Wanted, raw: Any) -> None:
        """The next call finds its entry, if there is one, without the text of its key."""
        self.cache.memory.link(one.key, self.made.home, raw)


class Awaited(Way):
    """A function that is awaited."""

    async def miss(self, raw: Any, arguments: dict[str, Any]) -> Any:
        if self.cache.is_disabled():
            return await self.call(arguments)
        one = self.wanted(raw, arguments)
        if (value := self.known(one, raw)) is not ABSENT:
            return value
        (value,) = await self.cache.engine().fetch(self.spec, (one,), self.load_with(arguments))
        self.link(one, raw)
        return value

    async def refresh(self, *args: Any, **kwargs: Any) -> Any:
        raw, arguments = self.made.bind(*args, **kwargs)
        wanted = (self.wanted(raw, arguments),)
        return (await self.cache.engine().refresh(self.spec, wanted, self.load_with(arguments)))[0]

    async def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return await self.cache.invalidate(self.key(*args, **kwargs))

    def load_with(self, arguments: dict[str, Any]) -> Callable[[Sequence[Flight]], Awaitable[Sequence[Any]]]:
        async def load(flights: Sequence[Flight]) -> Sequence[Any]:
            return [await self.call(arguments)]

        return load


class Remote(Awaited):
    """A function that is awaited and has level 2 alone: its wrapper asks level 2 by itself."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._names: dict[Any, tuple[str, tuple[str, ...]]] = {}
        self.known_names = self._names.get
        self._getters = self.cache.getters

    def ask(self, asked: tuple[str, tuple[str, ...]]) -> asyncio.Future[Any]:
        """Level 2's answer, to come."""
        loop = asyncio.get_running_loop()
        if self.cache.is_disabled():
            past = loop.create_future()
            past.set_result(DOWN)
            return past
        get = self._getters.get(loop) or self.cache.level2().get
        return get(*asked, self.spec.codec)

    def names(self, raw: Any, arguments: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        """What level 2 calls the record of this call, and its tags."""
        record, *tags = names(self.wanted(raw, arguments))
        asked = record, tuple(tags)
        if not self.own_key:  # else the tags may differ from call to call
            if len(self._names) >= _KNOWN_NAMES:
                self._names.clear()
            self._names[raw] = asked
        return asked

    async def miss(self, raw: Any, arguments: dict[str, Any], asked: Any = None) -> Any:
        if self.cache.is_disabled():
            return await self.call(arguments)
        wanted = (self.wanted(raw, arguments),)
        return (await self.cache.engine().fetch(self.spec, wanted, self.load_with(arguments), asked))[0]


class Threaded(Way):
    """A plain function with level 1 alone."""

    def miss(self, raw: Any, arguments: dict[str, Any]) -> Any:
        if self.cache.is_disabled():
            return self.call(arguments)
        one = self.wanted(raw, arguments)
        if (value := self.known(one, raw)) is not ABSENT:
            return value
        value = self.cache.threads.fetch(self.spec, one.key, one.tags, lambda: self.call(arguments))
        self.link(one, raw)
        return value

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        raw, arguments = self.made.bind(*args, **kwargs)
        one = self.wanted(raw, arguments)
        return self.cache.threads.refresh(self.spec, one.key, one.tags, lambda: self.call(arguments))

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        self.cache.forgetting.here([self.key(*args, **kwargs)], [])
        return True


class Bridged(Way):
    """A plain function with level 2, or with more than a TTL."""

    def miss(self, raw: Any, arguments: dict[str, Any]) -> Any:
        if self.cache.is_disabled():
            return self.call(arguments)
        one = self.wanted(raw, arguments)
        if self.spec.memory and (value := self.known(one, raw)) is not ABSENT:
            return value

        async def look_up(errand: Errand) -> Any:
            return (await self.cache.engine().fetch(self.spec, (one,), errand.run))[0]

        value = self._fetch(look_up, arguments)
        if self.spec.memory:
            self.link(one, raw)
        return value

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        raw, arguments = self.made.bind(*args, **kwargs)
        one = self.wanted(raw, arguments)

        async def load_anew(errand: Errand) -> Any:
            return (await self.cache.engine().refresh(self.spec, (one,), errand.run))[0]

        return self._fetch(load_anew, arguments)

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        return self.cache.bridge.run(self.cache.invalidate(self.key(*args, **kwargs)))

    def _fetch(self, look_up: Callable[[Errand], Any], arguments: dict[str, Any]) -> Any:
        here = not self.spec.fresh.impatient
        return self.cache.bridge.fetch(look_up, lambda: self.call(arguments), here=here)
