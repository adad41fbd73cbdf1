"""What may stand in a statement that runs on several shards: a list of what is known to be right, nothing else.

A row-wise expression gives the same value on whichever shard its row lives. A list of the forbidden would miss what it
has not heard of (an aggregate written in C, an extension's volatile function), and the answer would be wrong without a
sign. So an unknown function or construct is refused by name.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Case,
    Cast,
    ClauseList,
    CollationClause,
    ColumnClause,
    ExpressionClauseList,
    False_,
    FunctionFilter,
    Grouping,
    Label,
    Null,
    Over,
    TextClause,
    True_,
    Tuple,
    TypeClause,
    TypeCoerce,
    UnaryExpression,
    WithinGroup,
    _label_reference,
)
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import CTE, Exists, ScalarSelect, SelectBase, Subquery

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.loaded import is_entity

ROWWISE: Final = frozenset(
    (
        "abs",
        "ceil",
        "ceiling",
        "floor",
        "round",
        "trunc",
        "sign",
        "sqrt",
        "power",
        "mod",
        "div",
        "greatest",
        "least",
        "coalesce",
        "nullif",
        "lower",
        "upper",
        "length",
        "char_length",
        "octet_length",
        "trim",
        "btrim",
        "ltrim",
        "rtrim",
        "substr",
        "substring",
        "replace",
        "concat",
        "left",
        "right",
        "lpad",
        "rpad",
        "reverse",
        "strpos",
        "starts_with",
        "md5",
        "sha256",
        "date_trunc",
        "date_part",
        "extract",
        "make_date",
    )
)
"""Functions of PostgreSQL that see one row and give the same value everywhere."""

AGGREGATES: Final = frozenset(("count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every"))
"""Aggregates that can be put together from parts."""

WHOLE: Final = frozenset(
    (
        "array_agg",
        "string_agg",
        "json_agg",
        "jsonb_agg",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "variance",
        "var_pop",
        "var_samp",
        "percentile_cont",
        "percentile_disc",
        "mode",
        "bit_and",
        "bit_or",
        "corr",
    )
)
"""Further aggregates that may be computed where a group is whole."""

_NODES: Final = (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Case,
    Cast,
    ClauseList,
    CollationClause,
    ExpressionClauseList,
    False_,
    Grouping,
    Label,
    Null,
    True_,
    Tuple,
    TypeClause,
    TypeCoerce,
    UnaryExpression,
    _label_reference,
)
_ONE: Final = "pin the statement to one shard key, or fetch the rows and compute it yourself"


def check_select(statement: Select[Any]) -> None:
    """Refuse the clauses of a SELECT that do not scatter."""
    raw: Any = statement
    refused = [
        (raw._for_update_arg is not None, "FOR UPDATE would hold locks on several shards, each in its own transaction",
         "lock the rows of one shard key"),
        (bool(raw._distinct_on), "DISTINCT ON keeps the first of rows that lie on different shards", _ONE),
        (bool(raw._prefixes or raw._suffixes or raw._statement_hints or raw._hints), "prefixes, suffixes and hints are "
         "text that is not understood", "leave them out, or pin the statement to one shard key"),
        (any(getattr(raw, name, None) is not None for name in
             ("_post_select_clause", "_pre_columns_clause", "_post_criteria_clause", "_post_body_clause")),
         "extensions of the SELECT are not understood", _ONE),
        (bool(raw._independent_ctes), "a common table expression would be computed on each shard alone", _ONE),
        (bool(raw._with_options), "loader options and criteria of the ORM change the statement later",
         "leave them out, or pin the statement to one shard key"),
    ]  # fmt: skip
    for wrong, reason, instead in refused:
        if wrong:
            raise CannotAnswer(reason, instead)
    options = raw._fetch_clause_options
    if options and (options.get("with_ties") or options.get("percent")):
        raise CannotAnswer("FETCH WITH TIES or PERCENT depends on rows of the other shards", "use limit()")
    for column in raw._raw_columns:
        if "bundle" in column._annotations:
            raise CannotAnswer("a Bundle is made by the session, and merged rows are not", "select its columns")
        if is_entity(column):
            raise CannotAnswer(
                "entities of several shards would share one session and its identity map",
                f"select columns: select(*{getattr(column, 'name', 'table')}.c), or pin it: WHERE on the shard key, "
                "or execution_options(shard_key=…)",
            )


def is_aggregate(node: Any) -> bool:
    """Whether the node is an aggregate that decomposes, with or without FILTER."""
    if isinstance(node, FunctionFilter):
        node = node.func
    return isinstance(node, FunctionElement) and str(getattr(node, "name", "")).lower() in AGGREGATES


def check_rowwise(
    root: Any, where: str, *, functions: frozenset[str] = frozenset(), whole_groups: bool = False
) -> None:
    """Refuse an expression that is not row-wise. ``functions``: further names that the caller vouches for.

    ``whole_groups``: aggregates may stand in it, because every group lies on one shard.
    """
    functions = functions | AGGREGATES | WHOLE if whole_groups else functions
    for node in visitors.iterate(root):
        if isinstance(node, Over):
            raise CannotAnswer(f"a window function in {where} needs the rows of all shards", _ONE)
        if isinstance(node, WithinGroup | FunctionFilter) and whole_groups:
            continue
        if isinstance(node, WithinGroup):
            raise CannotAnswer(f"an ordered-set aggregate in {where} does not decompose", _ONE)
        if isinstance(node, SelectBase | ScalarSelect | Exists | Subquery | CTE):
            raise CannotAnswer(f"a subquery in {where} would see the rows of one shard only", _ONE)
        if isinstance(node, FunctionElement):
            name = str(getattr(node, "name", "")).lower()
            if name in AGGREGATES and not whole_groups:
                raise CannotAnswer(f"the aggregate {name} in {where} stands inside another expression",
                                   "select it as a column of its own and compute with it afterwards")  # fmt: skip
            if (name not in ROWWISE and name not in functions) or getattr(node, "packagenames", None):
                raise CannotAnswer(
                    f"the function {name or type(node).__name__} in {where} is not known to see one row only",
                    "if it does, name it in ShardedCluster(rowwise=[…]); if it aggregates or has effects, pin the "
                    "statement to one shard key",
                )
        elif (
            whole_groups
            and node is not root
            and isinstance(node, ColumnClause)
            and node.is_literal
            and node.name == "*"
        ):
            continue  # of count(*)
        elif isinstance(node, TextClause) or (isinstance(node, ColumnClause) and node.is_literal):
            raise CannotAnswer(f"text in {where} is not understood", "write it with SQLAlchemy's expressions")
        elif isinstance(node, UnaryExpression) and node.operator is operators.distinct_op:
            if whole_groups:
                continue
            raise CannotAnswer(f"DISTINCT inside an expression in {where} does not decompose", _ONE)
        elif not isinstance(node, (*_NODES, ColumnClause)):
            raise CannotAnswer(f"{type(node).__name__} in {where} is not known to scatter", _ONE)
