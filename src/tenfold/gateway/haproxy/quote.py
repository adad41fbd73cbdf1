"""Text in HAProxy's configuration language, so that no text can become anything else.

Theory. The language has three layers. A line is cut into words, with quotes, backslashes, ``$`` and ``#``; a word may
be a format, in which ``%`` begins an expression and runs of spaces become one; and an expression has arguments between
parentheses, with quotes of their own (HAProxy's configuration manual, 2.2 and 8.2.6). Escaping by a list of what is
special has holes wherever the list has; so the outer layer writes all but a few harmless characters as ``\\xHH``, which
the reader of words alone resolves, and the inner layers escape the one or two characters that they know.
"""

from __future__ import annotations

import string
from typing import Final

_PLAIN: Final = frozenset((string.ascii_letters + string.digits + "_./:-,=<>+@()[]{}|~!?*;&^").encode())


def word(text: str) -> str:
    """One word of a line that reads as ``text``."""
    if not text:
        return '""'
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in text.encode())


def literal(text: str) -> str:
    """A part of a format that stands for ``text``, before `word`."""
    if "  " in text:
        return f"%[str({argument(text)})]"
    return text.replace("%", "%%")


def argument(text: str) -> str:
    """An argument of an expression that reads as ``text``, before `word`."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def millis(seconds: float) -> str:
    """A time with its unit; at least one millisecond, because 0 is HAProxy's for ever."""
    return f"{max(1, round(seconds * 1000))}ms"
