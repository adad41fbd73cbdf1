"""SQL text cut into tokens, as far as the router must understand it.

The lexical rules are PostgreSQL's (chapter "Lexical Structure"): nested comments, strings with doubled quotes,
``E''`` with backslashes, dollar quotes with tags, quoted identifiers, ``$1`` parameters. Everything that a
string or a comment holds is out of the way afterwards, so that no word is found in it that is not there and
none that is there stays hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Sort = Literal["word", "name", "string", "number", "parameter", "mark", "operator"]

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n\r]*)
  | (?P<comment>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>(?:[bBxXnN])?'(?:[^']|'')*')
  | (?P<unicode>[uU]&['"])
  | (?P<name>"(?:[^"]|"")*")
  | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w]*)?\$)
  | (?P<parameter>\$\d+)
  | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$]*)
  | (?P<number>\d[\w.]*|\.\d[\w]*)
  | (?P<mark>::|:=|[()\[\],;.:])
  | (?P<operator>[+\-*/<>=~!@\#%^&|`?]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


class UnreadableTextError(ValueError):
    """The text ends within a string or comment, or uses a notation that is not read here."""


@dataclass(frozen=True, slots=True)
class Token:
    """``text`` of a word is lower case, of a name without its quotes."""

    sort: Sort
    text: str


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of ``sql``, comments left out. Raises `UnreadableTextError`."""
    at, escaped = 0, False
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            raise UnreadableTextError(f"no token begins at {sql[at : at + 12]!r}")
        kind, text, at = match.lastgroup, match.group(), match.end()
        if kind == "space":
            continue
        if kind == "string" and escaped:
            raise UnreadableTextError("an E'' string that goes on in the next line is not read")  # with backslashes
        escaped = kind == "escaped" or (escaped and kind == "comment")
        if kind == "comment":
            at = _end_of_comment(sql, at)
        elif kind == "dollar":
            end = sql.find(text, at)
            if end < 0:
                raise UnreadableTextError(f"the quote {text} is not closed")
            at = end + len(text)
            yield Token("string", "")
        elif kind == "unicode":
            raise UnreadableTextError("U& notation is not read")
        elif kind in ("escaped", "string"):
            yield Token("string", "")
        elif kind == "name":
            yield Token("name", text[1:-1].replace('""', '"'))
        elif kind == "word":
            yield Token("word", text.lower())
        elif kind == "number":
            yield Token("number", text)
        elif kind == "parameter":
            yield Token("parameter", text)
        elif kind == "mark":
            yield Token("mark", text)
        else:
            length = _operator_length(text)
            at = match.start() + length
            yield Token("operator", text[:length])


def _end_of_comment(sql: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, at)
        if edge is None:
            raise UnreadableTextError("a comment is not closed")
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return at


def _operator_length(text: str) -> int:
    """An operator ends where a comment begins."""
    cuts = [cut for cut in (text.find("--"), text.find("/*")) if cut > 0]
    return min(cuts, default=len(text))


def statements(sql: str) -> list[list[Token]]:
    """The statements of ``sql``, empty ones left out. Raises `UnreadableTextError`."""
    found: list[list[Token]] = [[]]
    for token in tokens(sql):
        if token == _END:
            found.append([])
        else:
            found[-1].append(token)
    return [one for one in found if one]


_END: Final = Token("mark", ";")
