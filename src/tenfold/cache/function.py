"""The decorators: what a cached function is, and the way of a call that the hit path of `hit` cannot answer."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, Self, TypeVar, overload

from tenfold._core.errors import MisuseError
from tenfold.cache.batch import DOWN
from tenfold.cache.bridge import Errand
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.hit import compile_wrapper, text_of
from tenfold.cache.keys import TagTemplates, parameters_of
from tenfold.cache.lookup import Spec, Wanted, names

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

_KNOWN_NAMES: Final = 10_000
"""Calls whose names in level 2 a function without level 1 remembers."""

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Cached(Protocol[P, R_co]):
    """A cached function: call it as before, and steer its entries by the same arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], R], instance: S, owner: type, /
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Load anew, replace what is cached and return it."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the entry. False if level 2 did not confirm it (it is repeated until it does)."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of the entry."""
        ...


class CachedPlain(Protocol[P, R_co]):
    """A cached plain function, which any thread may call."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: CachedPlain[Concatenate[S, Q], R], instance: S, owner: type, /) -> Callable[Q, R]: ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Load anew, replace what is cached and return it."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the entry. False if level 2 did not confirm it (it is repeated until it does)."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of the entry."""
        ...


class Decorator(Protocol):
    """What ``@cache("1m")`` applies: an ``async def`` stays one, and a plain function stays plain."""

    @overload  # an `async def` is also a plain function that returns a coroutine: the first match decides
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Cached[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedPlain[P, R]: ...


def cached(
    cache: Cache, function: Callable[..., Any], spec: Spec, tags: Sequence[str], key: Callable[..., object] | None
) -> Any:
    """Wrap one function. See `Cache.__call__`."""
    parameters = parameters_of(function, spec.name, own_key=key is not None)
    templates = TagTemplates(tags, [parameter.name for parameter in parameters], spec.name)
    wait = inspect.iscoroutinefunction(function)
    bridged = not wait and (cache.shared_level or spec.fresh.more_than_ttl)
    ahead = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    count = len(parameters) if key is None else 1
    prefix = spec.name + "("
    memory = cache.memory

    def call(arguments: dict[str, Any]) -> Any:
        if not ahead:
            return function(**arguments)
        named = {name: value for name, value in arguments.items() if name not in ahead}
        return function(*[arguments[name] for name in ahead], **named)

    def wanted(raw: Any, arguments: dict[str, Any]) -> Wanted:
        return Wanted(text_of(raw, prefix, count), templates.fill(arguments))

    def known(one: Wanted, raw: Any) -> Any:
        """For what was loaded by another way, or met an invalidation: the next hit is a fast one again."""
        value = cache.look(one.key)
        if value is not ABSENT:
            memory.link(one.key, made.home, raw)
        return value

    def key_of(*args: Any, **kwargs: Any) -> str:
        return text_of(made.bind(*args, **kwargs)[0], prefix, count)

    def load_with(arguments: dict[str, Any]) -> Callable[[Sequence[Flight]], Awaitable[Sequence[Any]]]:
        async def load(flights: Sequence[Flight]) -> Sequence[Any]:
            return [await call(arguments)]

        return load

    known_names: dict[Any, tuple[str, ...]] = {}

    def ask(raw: Any, arguments: dict[str, Any]) -> asyncio.Future[Any]:
        """Level 2's answer, for a function that has no other level."""
        if cache.is_disabled():
            past = asyncio.get_running_loop().create_future()
            past.set_result(DOWN)
            return past
        asked = known_names.get(raw)
        if asked is None:
            asked = names(wanted(raw, arguments))
            if key is None:  # otherwise the tags may differ from call to call
                if len(known_names) >= _KNOWN_NAMES:
                    known_names.clear()
                known_names[raw] = asked
        return cache.level2().get(asked, spec.codec)

    async def remote_miss(raw: Any, arguments: dict[str, Any], asked: Any) -> Any:
        if cache.is_disabled():
            return await call(arguments)
        return (await cache.engine().fetch(spec, (wanted(raw, arguments),), load_with(arguments), asked))[0]

    async def miss(raw: Any, arguments: dict[str, Any]) -> Any:
        if cache.is_disabled():
            return await call(arguments)
        one = wanted(raw, arguments)
        if (value := known(one, raw)) is not ABSENT:
            return value
        (value,) = await cache.engine().fetch(spec, (one,), load_with(arguments))
        memory.link(one.key, made.home, raw)
        return value

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        raw, arguments = made.bind(*args, **kwargs)
        return (await cache.engine().refresh(spec, (wanted(raw, arguments),), load_with(arguments)))[0]

    async def invalidate(*args: Any, **kwargs: Any) -> bool:
        return await cache.invalidate(key_of(*args, **kwargs))

    def plain_miss(raw: Any, arguments: dict[str, Any]) -> Any:
        if cache.is_disabled():
            return call(arguments)
        one = wanted(raw, arguments)
        if (value := known(one, raw)) is not ABSENT:
            return value
        value = cache.threads.fetch(spec, one.key, one.tags, lambda: call(arguments))
        memory.link(one.key, made.home, raw)
        return value

    def bridged_miss(raw: Any, arguments: dict[str, Any]) -> Any:
        if cache.is_disabled():
            return call(arguments)
        one = wanted(raw, arguments)
        if spec.memory and (value := known(one, raw)) is not ABSENT:
            return value

        async def look_up(errand: Errand) -> Any:
            return (await cache.engine().fetch(spec, (one,), errand.run))[0]

        value = cache.bridge.fetch(look_up, lambda: call(arguments), here=not spec.fresh.impatient)
        if spec.memory:
            memory.link(one.key, made.home, raw)
        return value

    def bridged_refresh(*args: Any, **kwargs: Any) -> Any:
        raw, arguments = made.bind(*args, **kwargs)
        one = wanted(raw, arguments)

        async def load_anew(errand: Errand) -> Any:
            return (await cache.engine().refresh(spec, (one,), errand.run))[0]

        return cache.bridge.fetch(load_anew, lambda: call(arguments), here=not spec.fresh.impatient)

    def bridged_invalidate(*args: Any, **kwargs: Any) -> bool:
        return cache.bridge.run(cache.invalidate(key_of(*args, **kwargs)))

    def plain_refresh(*args: Any, **kwargs: Any) -> Any:
        raw, arguments = made.bind(*args, **kwargs)
        one = wanted(raw, arguments)
        return cache.threads.refresh(spec, one.key, one.tags, lambda: call(arguments))

    def plain_invalidate(*args: Any, **kwargs: Any) -> bool:
        cache.forget_here(key_of(*args, **kwargs))
        return True

    slow: Any
    anew: Any
    forget: Any
    if bridged:
        slow, anew, forget = bridged_miss, bridged_refresh, bridged_invalidate
    elif wait:
        slow, anew, forget = miss if spec.memory else remote_miss, refresh, invalidate
    else:
        slow, anew, forget = plain_miss, plain_refresh, plain_invalidate
    namespace: dict[str, Any] = {}
    made = compile_wrapper(
        parameters,
        namespace,
        name=spec.name,
        path=cache.hit_path(namespace),
        miss=slow,
        ask=ask if wait and not spec.memory else None,
        memory=spec.memory,
        key=key,
        wait=wait,
    )
    wrapper = made.wrapper
    functools.update_wrapper(wrapper, function)
    functools.update_wrapper(made.bind, function)
    wrapper.key = key_of
    wrapper.refresh = anew
    wrapper.invalidate = forget
    return wrapper


def name_of(function: Callable[..., Any], name: str | None) -> str:
    """The name under which a function's entries are kept: the same in every process."""
    return name or f"{function.__module__}.{function.__qualname__}"


def result_type(function: Callable[..., Any], name: str, *, needed: bool) -> Any:
    """The return annotation, evaluated. Without level 2 nobody needs it, and anything goes."""
    if not needed:
        return Any
    annotation = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(function.__globals__), _enclosing(function))
        except (NameError, AttributeError, SyntaxError, TypeError) as error:
            raise MisuseError(
                f"{name}: expected a return annotation that evaluates, got {annotation!r} ({error}); "
                "declare the type at module level and import it outside `if TYPE_CHECKING`"
            ) from error
    if annotation is inspect.Signature.empty:
        raise MisuseError(
            f"{name}: expected a return annotation, because level 2 makes values of that type; add `-> …`"
        )
    return annotation


def _enclosing(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of the function around it that it uses, without those that have no value yet (its own name)."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def value_type(annotation: Any, name: str, *, needed: bool) -> Any:
    """V of ``dict[K, V]``."""
    arguments = typing.get_args(annotation)
    if len(arguments) == 2:
        return arguments[1]
    if needed:
        raise MisuseError(f"{name}: expected a return annotation such as `dict[int, Product]`, got {annotation!r}")
    return Any
