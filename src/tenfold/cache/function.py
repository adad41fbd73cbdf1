"""The decorators: a wrapper with the function's own signature, compiled so that a hit costs a few dictionary
look-ups.

A generic ``*args, **kwargs`` wrapper would have to bind arguments at every call, which costs several times
the hit. So the wrapper is written for each function: it takes the same parameters with the same defaults,
makes the key from them by name, looks at level 1 and returns. Names that it uses are globals of its own
namespace and begin with ``_tf_``.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast

from tenfold._core.errors import MisuseError
from tenfold.cache.flight import ABSENT, Flight
from tenfold.cache.keys import TagTemplates, encode, parameters_of
from tenfold.cache.lookup import Spec, Wanted

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
R_co = TypeVar("R_co", covariant=True)

AsyncFunction = Callable[P, Awaitable[R]]


class Cached(Protocol[P, R_co]):
    """A cached function: call it as before, and steer its entries by the same arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> typing.Coroutine[Any, Any, R_co]: ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Load anew, replace what is cached and return it."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the entry. False if level 2 did not confirm it (it is repeated until it does)."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of the entry."""
        ...


_TEMPLATE = """
async def wrapper({parameters}):
    _tf_key = {key}
    {hit}
    return await _tf_miss(_tf_key, {arguments})

def key_of({parameters}):
    return {key}

def bind({parameters}):
    return {key}, {arguments}
"""
_HIT = """_tf_entry = _tf_index.get(_tf_key)
    if _tf_entry is not None and _tf_entry.epoch == _tf_barriers.epoch and _tf_entry.until > _tf_now():
        if _tf_entry.n < 3:
            _tf_entry.n += 1
        _tf_counters.hits += 1
        return _tf_entry.value"""


def cached(cache: Cache, function: AsyncFunction[P, R], spec: Spec, tags: Sequence[str]) -> Cached[P, R]:
    """Wrap one function. See `Cache.__call__`."""
    parameters = parameters_of(function, spec.name)
    templates = TagTemplates(tags, [parameter.name for parameter in parameters], spec.name)
    positional_only = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]

    def load_with(arguments: dict[str, Any]) -> Callable[[Sequence[Flight]], Awaitable[Sequence[Any]]]:
        async def load(flights: Sequence[Flight]) -> Sequence[Any]:
            named = {name: value for name, value in arguments.items() if name not in positional_only}
            ahead = [arguments[name] for name in positional_only]
            return [await cast("Callable[..., Awaitable[R]]", function)(*ahead, **named)]

        return load

    async def miss(key: str, arguments: dict[str, Any]) -> R:
        if spec.memory:
            entry = cache.revalidate(key)
            if entry is not None:
                return cast("R", entry.value)
        wanted = (Wanted(key, templates.fill(arguments)),)
        return cast("R", (await cache.engine().fetch(spec, wanted, load_with(arguments)))[0])

    async def refresh(*args: P.args, **kwargs: P.kwargs) -> R:
        key, arguments = bind(*args, **kwargs)
        wanted = (Wanted(key, templates.fill(arguments)),)
        return cast("R", (await cache.engine().refresh(spec, wanted, load_with(arguments)))[0])

    async def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
        return await cache.invalidate(key_of(*args, **kwargs))

    namespace = {
        "_tf_prefix": spec.name + "(",
        "_tf_name": spec.name,
        "_tf_text": encode,
        "_tf_str": str,
        "_tf_type": type,
        "_tf_int": int,
        "_tf_miss": miss,
        **cache.hit_path(),
    }
    wrapper, key_of, bind = _compile(parameters, namespace, memory=spec.memory)
    functools.update_wrapper(wrapper, function)
    wrapper.refresh, wrapper.invalidate, wrapper.key = refresh, invalidate, key_of
    return cast("Cached[P, R]", wrapper)


def _compile(parameters: list[inspect.Parameter], namespace: dict[str, Any], *, memory: bool) -> tuple[Any, Any, Any]:
    declared: list[str] = []
    last = None
    for parameter in parameters:
        if last is parameter.POSITIONAL_ONLY and parameter.kind is not parameter.POSITIONAL_ONLY:
            declared.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and last is not parameter.KEYWORD_ONLY:
            declared.append("*")
        text = parameter.name
        if parameter.default is not parameter.empty:
            namespace[f"_tf_default_{parameter.name}"] = parameter.default
            text += f"=_tf_default_{parameter.name}"
        declared.append(text)
        last = parameter.kind
    if last is inspect.Parameter.POSITIONAL_ONLY:
        declared.append("/")
    parts = [
        f"(_tf_str({p.name}) if _tf_type({p.name}) is _tf_int else _tf_text({p.name}, _tf_name, {p.name!r}))"
        for p in parameters
    ]
    key = "_tf_prefix + " + " + ',' + ".join(parts) + " + ')'" if parts else "_tf_prefix + ')'"
    source = _TEMPLATE.format(
        parameters=", ".join(declared),
        key=key,
        hit=_HIT if memory else "",
        arguments="{" + ", ".join(f"{p.name!r}: {p.name}" for p in parameters) + "}",
    )
    exec(compile(source, f"<tenfold.cache {namespace['_tf_name']}>", "exec"), namespace)
    return namespace["wrapper"], namespace["key_of"], namespace["bind"]


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
        self._templates = TagTemplates(tags, ["id"], spec.name)
        functools.update_wrapper(cast("Any", self), function)

    async def __call__(self, ids: Iterable[K]) -> dict[K, V]:
        """The values of ``ids``, each id once, in the order asked for."""
        found: dict[K, Any] = {}
        wanted: list[Wanted] = []
        for one, key in self._keyed(ids):
            entry = self._cache.look(key) if self._spec.memory else None
            found[one] = None if entry is None else entry.value
            if entry is None:
                wanted.append(Wanted(key, self._templates.fill({"id": one}), one))
        if wanted:
            values = await self._cache.engine().fetch(self._spec, wanted, self._load)
            found.update((one.subject, value) for one, value in zip(wanted, values, strict=True))
        return {one: value for one, value in found.items() if value is not ABSENT}

    async def refresh(self, ids: Iterable[K]) -> dict[K, V]:
        """Load ``ids`` anew, replace what is cached and return it."""
        wanted = [Wanted(key, self._templates.fill({"id": one}), one) for one, key in self._keyed(ids)]
        if not wanted:
            return {}
        values = await self._cache.engine().refresh(self._spec, wanted, self._load)
        return {one.subject: value for one, value in zip(wanted, values, strict=True) if value is not ABSENT}

    async def invalidate(self, *ids: K) -> bool:
        """Forget these ids. False if level 2 did not confirm it (it is repeated until it does)."""
        return await self._cache.invalidate(*[self.key(one) for one in ids])

    def key(self, one: K) -> str:
        """The key of one id's entry."""
        return f"{self._spec.name}({encode(one, self._spec.name, 'id')})"

    def _keyed(self, ids: Iterable[K]) -> list[tuple[K, str]]:
        """Each id once, with its key. Ids that are equal but not of one type would share a place in the
        answer.
        """
        unique: dict[K, str] = {}
        for one in ids:
            key = self.key(one)
            if unique.setdefault(one, key) != key:
                raise MisuseError(
                    f"{self._spec.name}: expected ids of one type, got {one!r} and another id equal to it"
                )
        return list(unique.items())

    async def _load(self, flights: Sequence[Flight]) -> Sequence[Any]:
        ids = [flight.subject for flight in flights]
        loaded = await self._function(ids)
        if not isinstance(loaded, dict):
            raise MisuseError(
                f"{self._spec.name}: expected the loader to return a dict, got {type(loaded).__qualname__}"
            )
        return [loaded.get(one, ABSENT) for one in ids]


def name_of(function: Callable[..., Any], name: str | None) -> str:
    """The name under which a function's entries are kept: the same in every process."""
    return name or f"{function.__module__}.{function.__qualname__}"


def result_type(function: Callable[..., Any], name: str, *, needed: bool) -> Any:
    """The return annotation, evaluated. Without level 2 nobody needs it, and anything goes."""
    annotation = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    if isinstance(annotation, str):
        try:
            names = inspect.getclosurevars(function)
            annotation = eval(annotation, dict(function.__globals__), dict(names.nonlocals))
        except (NameError, AttributeError, SyntaxError, TypeError) as error:
            if needed:
                raise MisuseError(
                    f"{name}: expected a return annotation that evaluates, got {annotation!r} ({error}); "
                    "declare the type at module level and import it outside `if TYPE_CHECKING`"
                ) from error
            return Any
    if annotation is inspect.Signature.empty:
        if needed:
            raise MisuseError(
                f"{name}: expected a return annotation, because level 2 makes values of that type; add `-> …`"
            )
        return Any
    return annotation


def value_type(annotation: Any, name: str, *, needed: bool) -> Any:
    """V of ``dict[K, V]``."""
    arguments = typing.get_args(annotation)
    if len(arguments) == 2:
        return arguments[1]
    if needed:
        raise MisuseError(f"{name}: expected a return annotation such as `dict[int, Product]`, got {annotation!r}")
    return Any
