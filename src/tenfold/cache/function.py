"""The decorators: what a cached function is, and how one is put together."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from tenfold._core.errors import MisuseError
from tenfold.cache.hit import compile_wrapper
from tenfold.cache.keys import TagTemplates, parameters_of
from tenfold.cache.lookup import Spec
from tenfold.cache.ways import Awaited, Bridged, Remote, Threads, Way

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
        kind = Bridged if cache.shared_level or spec.fresh.more_than_ttl else Threads
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
    way.made = made = compile_wrapper(
        parameters,
        namespace,
        name=spec.name,
        path=cache.hit_path(namespace),
        miss=way.miss,
        ask=way.ask if isinstance(way, Remote) else None,
        memory=spec.memory,
        key=key,
        wait=wait,
    )
    wrapper = made.wrapper
    functools.update_wrapper(wrapper, function)
    functools.update_wrapper(made.bind, function)
    wrapper.key, wrapper.refresh, wrapper.invalidate = way.key, way.refresh, way.invalidate
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
