"""The verdict on SQL text.

Where `pglast` is installed (PostgreSQL's own parser; the extra ``[sql]``), the text is read as the server reads
it. Otherwise by its tokens: whatever looks like a call is looked up, and a word that may mean a change is a
doubt, also where it is a column's name. Both start from a short list of statements that may be reads; every
other statement is a write. So what a hot standby accepts and should not get (``DO``, ``PREPARE``, ``COPY …
TO``, ``SET``, cursors, ``LISTEN``) is excluded without being named.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Final

from tenfold.db.classify.catalogue import Catalogue
from tenfold.db.classify.functions import holds_forced, is_forced, judge, words
from tenfold.db.classify.tokens import Token, UnreadableTextError, statements
from tenfold.db.classify.verdict import Findings, Verdict


@functools.cache
def parser() -> ModuleType | None:
    """`pglast`, or None where it is not installed."""
    try:
        return importlib.import_module("pglast")
    except ImportError:
        return None


def classify_text(sql: str, catalogue: Catalogue | None, *, parsed: bool = True) -> Verdict:
    """The verdict on ``sql``, which may hold several statements.

    ``parsed=False`` leaves the parser out even where it is installed.
    """
    found = Findings()
    pglast = parser() if parsed else None
    if pglast is not None:
        try:
            trees = pglast.parse_sql(sql)
        except pglast.parser.ParseError as error:
            found.doubt(f"the text cannot be parsed ({error.args[0]})")
        else:
            if not trees:
                found.doubt("the text holds no statement")
            for tree in trees:
                _tree(tree.stmt, catalogue, found)
        return found.verdict()
    try:
        cut = statements(sql)
    except UnreadableTextError as error:
        found.doubt(f"the text cannot be read ({error})")
        return found.verdict()
    if not cut:
        found.doubt("the text holds no statement")
    for one in cut:
        _statement(one, catalogue, found)
    return found.verdict()


# -- PostgreSQL's parse tree

_CHANGES: Final = {
    "InsertStmt": "INSERT",
    "UpdateStmt": "UPDATE",
    "DeleteStmt": "DELETE",
    "MergeStmt": "MERGE",
}


def _tree(statement: Any, catalogue: Catalogue | None, found: Findings) -> None:
    name = type(statement).__name__
    if name == "VariableShowStmt":
        return
    if name == "ExplainStmt":
        query = statement.query
        if any(_is_on(option) for option in statement.options or () if option.defname == "analyze"):
            _tree(query, catalogue, found)
        elif type(query).__name__ in ("SelectStmt", *_CHANGES):
            # Planned only, so changes are none; but the planner opens relations and calls functions.
            for node in _nodes(query):
                if type(node).__name__ not in _CHANGES:
                    _node(node, catalogue, found)
        else:
            found.doubt(f"it explains {_unquery(type(query).__name__)}")
        return
    if name != "SelectStmt":
        found.write(f"it is {_CHANGES.get(name) or _unquery(name)}")
        return
    for node in _nodes(statement):
        _node(node, catalogue, found)


def _unquery(name: str) -> str:
    return f"a {name.removesuffix('Stmt')} statement, which is no query"


def _is_on(option: Any) -> bool:
    value = option.arg
    if value is None:
        return True
    text = getattr(value, "sval", None)
    return not (
        text in ("off", "false", "0") or getattr(value, "boolval", None) is False or getattr(value, "ival", None) == 0
    )


def _nodes(node: Any) -> Iterator[Any]:
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, tuple):
            stack.extend(one)
        elif hasattr(one, "__slots__") and type(one).__module__ == "pglast.ast":
            yield one
            stack.extend(getattr(one, slot) for slot in one)


def _names(parts: Sequence[Any]) -> tuple[str | None, str]:
    texts = [part.sval for part in parts]
    return (texts[-2] if len(texts) > 1 else None), texts[-1]


def _node(node: Any, catalogue: Catalogue | None, found: Findings) -> None:
    name = type(node).__name__
    if name in _CHANGES:
        found.write(f"it holds {_CHANGES[name]}")
    elif name == "LockingClause":
        found.write("it locks rows")
    elif name == "IntoClause":
        found.write("it makes a table (INTO)")
    elif name == "FuncCall":
        judge(*_names(node.funcname), catalogue, found)
    elif catalogue is None:
        return
    elif name == "TypeName" and node.names:
        catalogue.judge_relation(*_names(node.names), found)
    elif name == "SortBy" and node.useOp:
        catalogue.judge_operator(node.useOp[-1].sval, found)
    elif name == "A_Expr" and node.name:
        catalogue.judge_operator(node.name[-1].sval, found)
    elif name == "SubLink" and node.operName:
        catalogue.judge_operator(node.operName[-1].sval, found)
    elif name == "RangeVar":
        catalogue.judge_relation(node.schemaname, node.relname, found)
    elif name == "ColumnRef" and hasattr(node.fields[-1], "sval"):
        catalogue.judge_column(node.fields[-1].sval, found)
    elif name == "A_Indirection" and hasattr(node.indirection[-1], "sval"):
        catalogue.judge_column(node.indirection[-1].sval, found)


# -- tokens

_QUERIES: Final = frozenset({"select", "with", "values", "table"})
_CHANGING: Final = frozenset({"insert", "update", "delete", "merge"})
_LOCKS: Final = frozenset({"update", "share", "no", "key"})
# Before a parenthesis these are grammar. The first cannot name a function unless quoted; the second can.
_RESERVED: Final = words(
    "in and or not values as on using from select where when then else having limit offset union except intersect "
    "lateral group order case distinct to between end all any some exists with fetch into "
    "varchar numeric decimal char character bit float time timestamp interval int integer bigint smallint boolean real "
    "precision"
)
_NAMING: Final = frozenset({"with", "recursive", "as", "tablesample"})
_SOFT: Final = words(
    "over filter by within partition rollup cube sets materialized next first repeatable columns join is like ilike "
    "similar"
)


def _statement(cut: Sequence[Token], catalogue: Catalogue | None, found: Findings) -> None:
    first = next((token.text for token in cut if token.text != "("), "")
    if first == "show":
        return
    if first == "explain":
        body = next((n for n, token in enumerate(cut) if _begins(token)), len(cut))
        if any(_analyzes(cut[number : number + 2]) for number in range(body)):
            _statement(cut[body:], catalogue, found)
        elif body < len(cut) and cut[body].text in _QUERIES | _CHANGING:
            fragment(cut[body:], catalogue, found, planned=True)
        else:
            found.doubt("it explains what is no query")
        return
    if first not in _QUERIES:
        found.write(f"it is {first.upper() or 'nothing'}" if first in _CHANGING else f"{first.upper()} is no query")
        return
    fragment(cut, catalogue, found)


def _analyzes(cut: Sequence[Token]) -> bool:
    option, *value = (token.text for token in cut)
    return option in ("analyze", "analyse") and value not in (["off"], ["false"], ["0"])


def _begins(token: Token) -> bool:
    return token.sort == "word" and token.text in _QUERIES | _CHANGING | {"create", "execute", "declare", "refresh"}


def calls_volatile(body: str, catalogue: Catalogue) -> bool:
    """Whether the body of a function calls one that may write, or reads what only the primary has."""
    if holds_forced(body):
        return True
    try:
        cut = [token for one in statements(body) for token in one]
    except UnreadableTextError:
        return True
    for number, token in enumerate(cut[:-1]):
        if token.sort not in ("word", "name"):
            continue
        found = Findings()
        catalogue.judge_relation(None, token.text, found, anywhere=True)
        if cut[number + 1].text == "(" and not _is_grammar(token, catalogue):
            schema = cut[number - 2].text if number > 1 and cut[number - 1].text == "." else None
            if catalogue.volatile(schema, token.text) is not None or is_forced(token.text):
                judge(schema, token.text, catalogue, found)
        if not found.verdict().is_read:
            return True
    return False


def fragment(cut: Sequence[Token], catalogue: Catalogue | None, found: Findings, *, planned: bool = False) -> None:
    """Judge a query, or a part of one, by its tokens; ``planned``: it is not run."""
    for number, token in enumerate(cut):
        before = cut[number - 1].text if number else ""
        after = cut[number + 1].text if number + 1 < len(cut) else ""
        if token.sort == "operator":
            if catalogue is not None:
                catalogue.judge_operator(token.text, found)
        elif token.sort in ("word", "name"):
            if token.sort == "word" and not (planned and token.text in _CHANGING):
                _word(token.text, after, before, found)
            if after == "(" and (before in _NAMING or _names_columns(cut, number)):
                continue  # a common table or an alias with its columns, a type with its length, a way to sample
            if after == "(" and (before == "." or not _is_grammar(token, catalogue)):
                judge(cut[number - 2].text if before == "." and number > 1 else None, token.text, catalogue, found)
            elif catalogue is not None:
                catalogue.judge_relation(None, token.text, found, anywhere=True)
                catalogue.judge_column(token.text, found)


def _names_columns(cut: Sequence[Token], number: int) -> bool:
    """Whether ``cut[number]`` and its parenthesis are an alias after one (``) v(a, b)``), or a further common table
    (``, b(y) AS (SELECT``). A call follows a parenthesis only after ``DISTINCT ON (…)`` and ``OPERATOR(…)``.
    """
    if cut[number - 1].text == ")":
        depth, at = 1, number - 2
        while depth and at >= 0:
            depth += (cut[at].text == ")") - (cut[at].text == "(")
            at -= 1
        texts = [token.text for token in cut[max(at - 1, 0) : at + 1]]
        return texts != ["distinct", "on"] and texts[-1:] != ["operator"]
    if cut[number - 1].text != ",":
        return False
    end = next((at for at in range(number, len(cut)) if cut[at].text == ")"), len(cut))
    after = [token for token in cut[end + 1 : end + 6] if token.text not in ("not", "materialized")]
    texts = ["" if token.sort == "name" else token.text for token in after]
    return texts[:2] == ["as", "("] and texts[2:3] in (["select"], ["with"], ["table"])


def _is_grammar(token: Token, catalogue: Catalogue | None) -> bool:
    if token.sort != "word":
        return False
    if token.text in _SOFT:
        return catalogue is None or catalogue.volatile(None, token.text) is not True
    return token.text in _RESERVED


def _word(text: str, after: str, before: str, found: Findings) -> None:
    if text == "for" and after in _LOCKS:
        found.write("it locks rows")
    elif text == "into":
        found.write("it makes a table (INTO)")
    elif text in _CHANGING and before != "for" and not (text == "update" and before == "key"):
        found.doubt(f"it holds the word {text.upper()}")
