"""How many bytes a value keeps alive, roughly: enough to bound a memory, cheap enough to do once an
insert.
"""

from __future__ import annotations

import sys
from typing import Final

# An entry object, its slot in the index, its key and its place in a queue (64-bit CPython).
ENTRY_OVERHEAD: Final = 200
_LIMIT: Final = 10_000


def weigh(value: object) -> int:
    """An estimate in bytes of ``value`` and what it holds, entry overhead included.

    Containers, dataclasses and slotted objects are walked (each object once, at most 10,000 of them); what is
    behind a foreign extension type counts as `sys.getsizeof` reports it.
    """
    if type(value) is bytes or type(value) is str:
        return ENTRY_OVERHEAD + sys.getsizeof(value)
    total, seen, stack = ENTRY_OVERHEAD, set[int](), [value]
    while stack and len(seen) < _LIMIT:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        if isinstance(one, str | bytes | bytearray | int | float | type(None)):
            continue
        if isinstance(one, dict):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            stack.extend(one)
        else:
            stack.extend(vars(one).values() if hasattr(one, "__dict__") else ())
            for kind in type(one).__mro__:
                slots = kind.__dict__.get("__slots__", ())
                names = (slots,) if isinstance(slots, str) else slots
                stack.extend(getattr(one, name) for name in names if hasattr(one, name))
    return total
