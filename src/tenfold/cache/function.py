"""The decorators: what a cached function is, and how one is put together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from tenfold.cache.hit import compile_wrapper
from tenfold.cache.keys import TagTemplates, parameters_of
from tenfold.cache.lookup import Spec
from tenfold.cache.ways import Awaited, Bridged, Remote, Threaded, Way

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

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
    wait = inspect.iscoroutinefunction(function)
    kind: type[Way]
    if wait:
        kind = Awaited if spec.memory else Remote
    else:
        kind = Bridged if cache.shared_level or spec.fresh.more_than_ttl else Threaded
    way = kind(
        cache,
        function,
        spec,
        TagTemplates(tags, [parameter.name for parameter in parameters], spec.name),
        ahead=[p.name for p in parameters if p.kind is p.POSITIONAL_ONLY],
        count=len(parameters) if key is None else 1,
        own_key=key is not None,
    )
    namespace: dict[str, Any] = {}
    remote = {"ask": way.ask, "known": way.known_names, "names": way.names} if isinstance(way, Remote) else {}
    way.made = made = compile_wrapper(
        parameters,
        namespace,
        name=spec.name,
        path=cache.near.hit_path(namespace),
        miss=way.miss,
        memory=spec.memory,
        key=key,
        wait=wait,
        **remote,
    )
    wrapper = made.wrapper
    functools.update_wrapper(wrapper, function)
    functools.update_wrapper(made.bind, function)
    wrapper.key, wrapper.refresh, wrapper.invalidate = way.key, way.refresh, way.invalidate
    return wrapper
