"""What a cached function declared: its name, the type of its values, and the terms under which they are kept."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold._core.units import Duration
from tenfold.cache.codec import Codec
from tenfold.cache.freshness import Freshness, FreshnessOptions, declared
from tenfold.cache.lookup import Spec
from tenfold.cache.wire import Wire


class Specs:
    """The declarations of one cache. ``base`` are its own terms; without a ``shared_level`` values need no type."""

    def __init__(self, base: Freshness, *, shared_level: bool, wire: Wire | None) -> None:
        self._base = base
        self._shared_level = shared_level
        self._wire = wire
        self._names: set[str] = set()

    def of_function(
        self,
        function: Callable[..., Any],
        name: str | None,
        ttl: Duration | None,
        memory: bool,
        freshness: FreshnessOptions,
        *,
        many: bool = False,
    ) -> Spec:
        """Of a decorated function; one ``name`` each. A loader of ``many`` returns a dictionary of its values."""
        full = name or f"{function.__module__}.{function.__qualname__}"  # the same in every process
        if full in self._names:
            raise MisuseError(f"{full}: another function of this cache has this name; give one of them `name=`")
        if not memory:
            self.need_level2(full)
        self._names.add(full)
        kind = _result_type(function, full, needed=self._shared_level)
        if many:
            kind = _value_type(kind, full, needed=self._shared_level)
        return self.of(full, ttl, memory, kind, freshness)

    def of(self, name: str, ttl: Duration | None, memory: bool, kind: Any, freshness: FreshnessOptions) -> Spec:
        """Of whatever goes by ``name`` and has values of the type ``kind``."""
        base = self._base
        if not memory:
            for option in ("stale", "eager"):
                if freshness.get(option) is not None:
                    raise MisuseError(f"{name}: {option}= needs level 1; leave it out, or leave out memory=False")
            base = replace(base, stale=0.0, eager=None)
        fresh = declared(base, f"{name}: ", ttl, freshness)
        codec = Codec(kind if self._shared_level else Any, name, self._wire)
        return Spec(name=name, fresh=fresh, memory=memory, codec=codec)

    def need_level2(self, where: str) -> None:
        """For ``memory=False``. Raises `MisuseError` if no level is left."""
        if not self._shared_level:
            raise MisuseError(f"{where}: memory=False needs level 2; give the cache a `redis=` URL")


def _result_type(function: Callable[..., Any], name: str, *, needed: bool) -> Any:
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


def _value_type(annotation: Any, name: str, *, needed: bool) -> Any:
    """V of ``dict[K, V]``."""
    arguments = typing.get_args(annotation)
    if len(arguments) == 2:
        return arguments[1]
    if needed:
        raise MisuseError(f"{name}: expected a return annotation such as `dict[int, Product]`, got {annotation!r}")
    return Any
