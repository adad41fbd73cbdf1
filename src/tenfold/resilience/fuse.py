"""The success path of a policy as one function, written out for exactly the layers it has.

Theory. Nested decorators cost a frame, a ``*args`` and a ``try`` for each layer, whether the layer has anything to do
or not; for four layers that is twice what the layers themselves cost (the decision is recorded in ``docs/decisions``).
So the source of one function is put together (`weave`) from the lines of each layer and compiled, once per
*shape* (which layers there are, asynchronous or not) for all policies. ``inspect.getsource`` and tracebacks show it.

Three kinds come of the same lines:

- ``wrapper(*args, **kwargs)`` stands for a decorated function. It finds its policy's `Plan` under a global name of its
  own (see `policy` for how that is swapped while calls are under way) and does the first try itself.
- ``call(plan, fn, idempotent, args, kwargs)`` is the same for `Policy.call`.
- ``attempt(plan, fn, args, kwargs, outer, until)`` is a single try, for `again` and for hedges.

What a call takes is kept in its local variables, ``held`` together, and goes back through `Plan.settle` if anything
but success comes of it.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable
from functools import lru_cache
from inspect import CO_VARARGS, CO_VARKEYWORDS
from threading import get_ident
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.resilience.again import again_async, again_sync
from tenfold.resilience.plan import LateResult, Plan, Unwanted
from tenfold.resilience.scope import NO_SCOPE, SCOPE, Scope
from tenfold.resilience.weave import Kind, Shape, Weaver
from tenfold.resilience.wheel import NO_LINE, task_of, unused


def _returned_coroutine(result: Any, fn: Any) -> None:
    result.close()
    raise MisuseError(
        f"policy: {getattr(fn, '__qualname__', fn)!r} is a plain function and returned a coroutine, which nobody "
        "here can wait for; write it as `async def`, or give the asynchronous function itself"
    )


def _inherited(plan: Plan, outer: Scope) -> Scope:
    """The scope of a call that retries and knows no time of its own: the deadline is that of ``outer``."""
    until = outer[0]
    if until <= plan.monotonic():
        plan.counters.failures += 1
        raise plan.too_late()
    return (until, True)


NAMES: Final[dict[str, Any]] = {
    "NO_SCOPE": NO_SCOPE,
    "RETRIED": (math.inf, True),
    "scope_get": SCOPE.get,
    "scope_set": SCOPE.set,
    "scope_reset": SCOPE.reset,
    "get_ident": get_ident,
    "task_of": task_of,
    "NO_LINE": NO_LINE,
    "unused": unused,
    "Coroutine": CoroutineType,
    "LateResult": LateResult,
    "Unwanted": Unwanted,
    "again_sync": again_sync,
    "again_async": again_async,
    "returned_coroutine": _returned_coroutine,
    "inherited": _inherited,
}


@lru_cache(maxsize=512)
def compiled(shape: Shape, kind: Kind, asynchronous: bool, arity: int | None = None) -> CodeType:
    """The code of one function; its source stays in `linecache`, where tracebacks look for it."""
    text = Weaver(shape, kind, asynchronous, arity).source()
    of = "" if arity is None else f" of {arity}"
    filename = f"<tenfold policy {'async ' if asynchronous else ''}{kind}{of}: {shape}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    module = compile(text, filename, "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def wrapper_code(shape: Shape, asynchronous: bool, plan_name: str, fn: Callable[..., Any]) -> CodeType:
    """The code of the wrapper of ``fn``, which finds its plan under the global name ``plan_name``.

    A function of positional parameters alone, as most are, gets a wrapper of just these (with the same
    ``__defaults__``), which spares making a tuple and a dictionary for each call. Code is compiled once for each number
    of parameters; they get their names afterwards, and a local variable of ours that has the same one gives way.
    """
    name = getattr(fn, "__name__", None) or type(fn).__name__
    told: dict[str, Any] = {"co_name": name, "co_qualname": getattr(fn, "__qualname__", None) or name}
    own = positional(fn)
    code = compiled(shape, "wrapper", asynchronous, None if own is None else own.co_argcount)
    told["co_names"] = tuple(plan_name if each == "PLAN" else each for each in code.co_names)
    if own is not None:
        given = own.co_varnames[: own.co_argcount]
        rest = (f"_{each}" if each in given else each for each in code.co_varnames[own.co_argcount :])
        told |= {"co_varnames": (*given, *rest), "co_posonlyargcount": own.co_posonlyargcount}
    return code.replace(**told)


def positional(fn: Callable[..., Any]) -> CodeType | None:
    """The code of ``fn`` if it takes a fixed number of positional parameters and nothing else."""
    if not isinstance(fn, FunctionType):
        return None
    code = fn.__code__
    plain = not code.co_kwonlyargcount and not code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
    return code if plain and code.co_argcount <= 8 else None


def function(shape: Shape, kind: Kind, asynchronous: bool) -> FunctionType:
    """A ``call`` or an ``attempt``, which need no names of their own."""
    return FunctionType(compiled(shape, kind, asynchronous), {**NAMES, "__builtins__": __builtins__})
