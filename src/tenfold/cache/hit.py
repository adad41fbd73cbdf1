"""The wrapper of a decorated function, written for its signature: a hit in level 1 costs little more than the call.

A generic ``*args, **kwargs`` wrapper would have to bind arguments at every call, which costs several times
the hit. So the source of the wrapper is put together for each function and compiled: the same parameters with the
same defaults, a *raw key* made from them by name, one look into a dictionary of this function's own, two
comparisons, one addition.

The raw key of an argument that is exactly an int, a str, bytes or None is the argument itself. These never equal
each other across types, and equal ones have equal texts. Anything else (``True`` equals 1, ``0.0`` equals ``-0.0``)
becomes its canonical text in a tuple, which equals none of them. With several parameters the key is the tuple of
these. The text of the whole key, by which levels and processes know the entry, is made on the slow path alone.

The names that the source uses are globals of its own namespace (they are faster than the cells of a closure) and
begin with ``_tf_``; parameters may have any other name. Between the look into the dictionary and the addition
there is nothing at which CPython could switch threads, which makes hits exact without a lock: see `memory`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from tenfold.cache.entry import Entry
from tenfold.cache.keys import encode
from tenfold.cache.memory import Memory
from tenfold.cache.request import DOWN, Raw

PLAIN: Final = (int, str, bytes, type(None))
_FIRST: Final[dict[object, str]] = {
    int: "int",
    str: "str",
    bytes: "bytes",
    "int": "int",
    "str": "str",
    "bytes": "bytes",
}

_SOURCE: Final = """
{kind}def wrapper({parameters}):
{look}    return {wait}_tf_miss({passed_on})

def bind({parameters}):
    return {raw}, {arguments}
"""
# The clock is read before the look-up, and its answer waits on the stack: cheaper than a variable, and no call comes
# between the look-up and the addition.
_LOOK: Final = """
{indent}try:
{indent}    if _tf_now() < (_tf_entry := _tf_home[{key}]).until:
{indent}        if _tf_entry.epoch is _tf_epoch:
{indent}            _tf_entry.n += 1.0
{indent}            {hit}
{indent}except _tf_KeyError:
{indent}    pass
"""
_ASK: Final = """
    _tf_raw = {raw}
    _tf_value = await _tf_ask(_tf_known(_tf_raw) or _tf_names(_tf_raw, {arguments}))
    if _tf_type(_tf_value) is not _tf_Raw and _tf_value is not _tf_DOWN:
        return _tf_value
"""
_HIT: Final = "return _tf_entry.value"
_TOUCHING_HIT: Final = "_tf_value = _tf_entry.value; _tf_touch(_tf_entry); return _tf_value"


@dataclass(frozen=True, slots=True)
class HitPath:
    """What a wrapper needs of its cache: level 1 and the clock."""

    memory: Memory
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Compiled:
    """``wrapper`` stands for the function; ``bind`` makes raw key and named arguments of a call; ``home`` holds the
    function's entries by raw key.
    """

    wrapper: Any
    bind: Any
    home: dict[Any, Entry]


def compile_wrapper(
    parameters: list[inspect.Parameter],
    namespace: dict[str, Any],
    *,
    name: str,
    path: HitPath,
    miss: Any,
    memory: bool,
    key: Callable[..., object] | None,
    wait: bool,
    ask: Any = None,
    known: Any = None,
    names: Any = None,
) -> Compiled:
    """Write and compile the wrapper. ``miss(raw key, arguments)`` is asked when the hit path has no answer; ``wait``
    makes an ``async def``; ``key`` is the user's own way from arguments to key. Without ``memory`` level 1 is left out;
    with ``ask(names)``, which returns a future, ``miss`` gets as a third argument what level 2 said; the names are
    ``known(raw key)``, or ``names(raw key, arguments)`` where that knows none.
    """
    touch, home = path.memory.touch, dict[Any, Entry]()

    def part(value: object, argument: str) -> Hashable:
        return value if type(value) in PLAIN else (encode(value, name, argument),)

    namespace |= {
        "_tf_KeyError": KeyError,
        "_tf_type": type,
        "_tf_int": int,
        "_tf_str": str,
        "_tf_bytes": bytes,
        "_tf_part": part,
        "_tf_own_key": key,
        "_tf_home": home,
        "_tf_now": path.now,
        "_tf_touch": touch,
        "_tf_miss": miss,
        "_tf_ask": ask,
        "_tf_known": known,
        "_tf_names": names,
        "_tf_Raw": Raw,
        "_tf_DOWN": DOWN,
    }
    declared = ", ".join(_declare(parameters, namespace))
    arguments = "{" + ", ".join(f"{p.name!r}: {p.name}" for p in parameters) + "}"
    hit = _HIT if touch is None else _TOUCHING_HIT
    if key is not None:
        condition, direct = "", ""
        coded = f"_tf_part(_tf_own_key({', '.join(map(_pass_on, parameters))}), 'key=')"
    else:
        condition, direct, coded = _raw(parameters)
    raw = f"{direct} if {condition} else {coded}" if condition else coded
    if ask is not None:
        look = _ASK.format(raw=raw, arguments=arguments)
        passed_on = f"_tf_raw, {arguments}, _tf_value"
    elif not memory:
        look, passed_on = "", f"{raw}, {arguments}"
    else:
        aside = f"_tf_key = {coded}" + _LOOK.format(key="_tf_key", hit=hit, indent=" " * (8 if condition else 4))
        if condition:
            look = f"    if {condition}:{_LOOK.format(key=direct, hit=hit, indent=' ' * 8)}    else:\n        {aside}"
        else:
            look = f"    {aside}"
        looked_for = f"{direct} if {condition} else _tf_key" if condition else "_tf_key"
        passed_on = f"{looked_for}, {arguments}"
    source = _SOURCE.format(
        kind="async " if wait else "",
        wait="await " if wait else "",
        parameters=declared,
        look=look,
        passed_on=passed_on,
        raw=raw,
        arguments=arguments,
    )
    exec(compile(source, f"<tenfold.cache {name}>", "exec"), namespace)
    return Compiled(namespace["wrapper"], namespace["bind"], home)


def text_of(raw: object, prefix: str, parameters: int) -> str:
    """The text of a key, from its raw form."""
    parts: Any = raw if parameters > 1 else () if parameters == 0 else (raw,)
    return prefix + ",".join([one[0] if type(one) is tuple else encode(one, prefix, "") for one in parts]) + ")"


def _raw(parameters: list[inspect.Parameter]) -> tuple[str, str, str]:
    """When the arguments are the raw key as they are; that key; and the expression that makes it otherwise."""
    if not parameters:
        return "", "", "None"
    condition = " and ".join(map(_is_plain, parameters))
    coded = [f"_tf_part({p.name}, {p.name!r})" for p in parameters]
    if len(parameters) == 1:
        return condition, parameters[0].name, coded[0]
    return condition, f"({', '.join(p.name for p in parameters)})", f"({', '.join(coded)})"


def _is_plain(parameter: inspect.Parameter) -> str:
    """The condition under which an argument is its own raw key. What its annotation says is tried first and alone;
    another type costs a call.
    """
    annotation: object = parameter.annotation
    first = _FIRST.get(annotation, "") if isinstance(annotation, str | type) else ""
    first = first or _FIRST.get(type(parameter.default), "")
    return f"_tf_type({parameter.name}) is _tf_{first or 'int'}"


def _pass_on(parameter: inspect.Parameter) -> str:
    keyword = parameter.kind is parameter.KEYWORD_ONLY
    return f"{parameter.name}={parameter.name}" if keyword else parameter.name


def _declare(parameters: list[inspect.Parameter], namespace: dict[str, Any]) -> list[str]:
    """The parameters as source; their defaults go into the namespace."""
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
    return declared
