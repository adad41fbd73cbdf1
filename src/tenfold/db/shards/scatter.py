"""Taking one SELECT apart: what each shard is sent, and how the parts are merged. The rules stand in `plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    Grouping,
    Label,
    UnaryExpression,
    _label_reference,
    _textual_label_reference,
)

from tenfold._core.errors import MisuseError
from tenfold.db.shards.aggregate import Aggregate, parts
from tenfold.db.shards.allowed import check_rowwise, check_select, is_aggregate
from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.having import Test, build
from tenfold.db.shards.order import OrderKey, is_c_text, why_not_equal, why_not_ordered
from tenfold.db.shards.shape import Groups, Merge, Plan
from tenfold.db.shards.store import EPOCH_COLUMN
from tenfold.db.shards.tables import base_table, final_froms, leaves, same, value_of

_GROUP: Final = "group by the shard key, or pin the statement to one shard key"


def unlabelled(node: Any) -> Any:
    """The expression beneath labels, parentheses and references to labels."""
    while isinstance(node, Label | Grouping | _label_reference):
        node = node.element
    return node


def whole(statement: Any) -> Any:
    """The statement without what asks for a cursor, which needs a transaction: a part comes in autocommit."""
    options = statement.get_execution_options()
    if options.get("yield_per") is None and not options.get("stream_results"):
        return statement
    return statement.execution_options(yield_per=None, stream_results=False)


class Scatter:
    """One SELECT being taken apart."""

    def __init__(self, statement: Select[Any], row: Mapping[str, Any] | None, rowwise: frozenset[str]) -> None:
        check_select(statement)
        self.statement: Any = statement
        self.row = row
        self.rowwise = rowwise
        self.columns: list[Any] = list(statement._all_selected_columns)
        for term in statement._where_criteria:
            self.rowwise_only(term, "WHERE")
        for one in final_froms(statement):
            self._check_from(one)
        self.limit = self._number(self.statement._limit_clause, "LIMIT")
        if self.statement._fetch_clause is not None:
            self.limit = self._number(self.statement._fetch_clause, "FETCH")
        self.offset = self._number(self.statement._offset_clause, "OFFSET") or 0
        if self.offset and not statement._order_by_clauses:
            raise CannotAnswer("OFFSET without ORDER BY skips other rows each time", "add ORDER BY")

    def plan(self, shards: tuple[str, ...], keys: str, by_key: bool) -> Plan:
        grouped = bool(self.statement._group_by_clauses or self.statement._having_criteria)
        aggregated = grouped or any(is_aggregate(unlabelled(column)) for column in self.columns)
        if aggregated and not by_key:
            statement, merge, steps = self._groups()
        else:
            statement, merge, steps = self._rows(by_key)
        statement = whole(statement).add_columns(EPOCH_COLUMN)
        why = (f"{keys}: {len(shards)} shards in parallel", *steps)
        return Plan("scatter", shards, statement, why, False, merge, tuple(self.columns), self.statement)

    # -- rows

    def _rows(self, by_key: bool) -> tuple[Any, Merge, list[str]]:
        statement = self.statement
        distinct = statement._distinct
        steps = []
        if by_key:
            steps.append("GROUP BY has the shard key: groups are whole on their shards")
            for node in statement._group_by_clauses:
                self.rowwise_only(self._by_label(node), "GROUP BY")
            for node in statement._having_criteria:
                self.rowwise_only(node, "HAVING", whole_groups=True)
        for column in self.columns:
            self.rowwise_only(column, "the select list", whole_groups=by_key)
        if distinct:
            for column in self.columns:
                if why := why_not_equal(column):
                    raise CannotAnswer(f"DISTINCT: {why}", _GROUP)
            steps.append("DISTINCT on each shard and again on the merged rows")
        order: list[OrderKey] = []
        hidden: list[Any] = []
        for expression, descending, nulls_first in self._order():
            self.rowwise_only(expression, "ORDER BY", whole_groups=by_key)
            place = self._selected(expression)
            if place is None:
                if distinct:
                    raise CannotAnswer("DISTINCT with ORDER BY a column that is not selected", "select that column")
                place = len(self.columns) + len(hidden)
                hidden.append(expression.label(f"tenfold_order_{len(hidden)}"))
            if why := _why_not_ordered(expression):
                raise CannotAnswer(f"ORDER BY: {why}", "or order the rows yourself")
            order.append(OrderKey(place, descending, nulls_first))
        if order:
            steps.append("merged in the order of ORDER BY")
        if hidden:
            statement = statement.add_columns(*hidden)
        if self.limit is not None:
            most = self.offset + self.limit if self.limit else 0
            statement = statement.limit(most)
            steps.append(f"each shard sends {most} rows at most")
        statement = statement.offset(None)
        return (
            statement,
            Merge(tuple(range(len(self.columns))), tuple(order), distinct, None, self.offset, self.limit),
            steps,
        )

    # -- groups

    def _groups(self) -> tuple[Any, Merge, list[str]]:
        if self.statement._distinct:
            raise CannotAnswer("DISTINCT over merged groups", "leave it out and drop the doubles yourself")
        groups = [self._by_label(node) for node in self.statement._group_by_clauses]
        for node in groups:
            self.rowwise_only(node, "GROUP BY")
            if why := why_not_equal(unlabelled(node)):
                raise CannotAnswer(f"GROUP BY: {why}", _GROUP)
        pushed = [self._as_selected(node) for node in groups]
        width = len(groups)
        aggregates: list[Aggregate] = []
        nodes: list[Any] = []

        def resolve(node: Any) -> int:
            bare = unlabelled(node)
            for place, group in enumerate(groups):
                if same(bare, unlabelled(group)):
                    return place
            if isinstance(bare, BinaryExpression) and bare.operator is operators.collate and is_c_text(bare):
                return resolve(bare.left)  # the same text; only its order differs
            if not is_aggregate(bare):
                raise CannotAnswer(
                    f"{bare} is neither a group column nor a decomposable aggregate",
                    "select group columns and aggregates as they are and compute with them afterwards",
                )
            for place, known in enumerate(nodes):
                if same(known, bare):
                    return width + place
            kind, expressions = parts(bare, "the statement")
            inner = bare.func if hasattr(bare, "criterion") else bare
            for clause in [*inner.clauses, *([bare.criterion] if hasattr(bare, "criterion") else [])]:
                if str(clause) != "*":
                    self.rowwise_only(clause, "an aggregate")
            start = len(pushed)
            pushed.extend(one.label(f"tenfold_part_{start + number}") for number, one in enumerate(expressions))
            aggregates.append(Aggregate(kind, tuple(range(start, len(pushed)))))
            nodes.append(bare)
            return width + len(nodes) - 1

        project = tuple(resolve(column) for column in self.columns)
        order = []
        for expression, descending, nulls_first in self._order():
            place = resolve(expression)
            if why := _why_not_ordered(expression):
                raise CannotAnswer(f"ORDER BY: {why}", "or order the rows yourself")
            order.append(OrderKey(place, descending, nulls_first))
        tests = [build(node, resolve, self.row) for node in self.statement._having_criteria]
        having = None if not tests else _all(tests)
        # The ORM finds the tables anew: those of a class that inherits are a join, of which its columns name a part.
        kept = self.statement._propagate_attrs.get("compile_state_plugin") != "orm"
        statement = self.statement.with_only_columns(*pushed, maintain_column_froms=kept)
        statement = statement.order_by(None).limit(None).offset(None)
        statement._having_criteria = ()
        kinds = ", ".join(sorted({aggregate.kind for aggregate in aggregates})) or "none"
        steps = [f"groups merged by {width} columns, parts: {kinds}"]
        if having:
            steps.append("HAVING after the merge")
        if order or self.limit is not None:
            steps.append("ORDER BY and LIMIT after the merge")
        scalar = not self.statement._group_by_clauses
        merged = Groups(width, tuple(aggregates), having, scalar)
        return statement, Merge(project, tuple(order), False, merged, self.offset, self.limit), steps

    # -- pieces

    def rowwise_only(self, node: Any, where: str, *, whole_groups: bool = False) -> None:
        check_rowwise(node, where, functions=self.rowwise, whole_groups=whole_groups)

    def _check_from(self, one: Any) -> None:
        joins: list[Any] = []
        for leaf in leaves([one], joins):
            if base_table(leaf) is None:
                raise CannotAnswer(
                    f"a {type(leaf).__name__} in FROM would be computed on each shard alone",
                    "pin the statement to one shard key, or compute it in two steps",
                )
        for join in joins:
            if join.onclause is not None:
                self.rowwise_only(join.onclause, "ON")

    def _number(self, clause: Any, name: str) -> int | None:
        if clause is None:
            return None
        value = value_of(clause, self.row) if isinstance(clause, BindParameter) else None
        if value is None:
            raise CannotAnswer(f"{name} is an expression, whose value is not known here", "give a number")
        if type(value) is not int or value < 0:
            raise MisuseError(f"{name}: expected a whole number of at least 0, got {value!r}")
        return value

    def _order(self) -> list[tuple[Any, bool, bool]]:
        """ORDER BY as (expression, descending, nulls first)."""
        found = []
        for clause in self.statement._order_by_clauses:
            node, descending, nulls_first = clause, False, None
            while isinstance(node, UnaryExpression | _label_reference | Grouping):
                if isinstance(node, UnaryExpression):
                    if node.modifier in (operators.asc_op, operators.desc_op):
                        descending = node.modifier is operators.desc_op
                    elif node.modifier in (operators.nulls_first_op, operators.nulls_last_op):
                        nulls_first = node.modifier is operators.nulls_first_op
                    else:
                        break
                node = node.element
            node = self._by_label(node)
            found.append((unlabelled(node), descending, descending if nulls_first is None else nulls_first))
        return found

    def _by_label(self, node: Any) -> Any:
        while isinstance(node, _label_reference | Grouping):
            node = node.element
        if not isinstance(node, _textual_label_reference):
            return node
        for column in reversed(self.columns):
            if isinstance(column, Label) and column.name == node.element:
                return column
        froms = leaves(final_froms(self.statement))
        named = {hash(column) for leaf in froms for column in leaf.c if column.key == node.element}
        if len(named) > 1:
            raise CannotAnswer(f"{node.element!r} is a column of several tables", "name the column itself")
        for column in self.columns:
            if hash(column) in named:
                return column
        raise CannotAnswer(f"{node.element!r} is no selected column", "name a column or a label of the select list")

    def _selected(self, expression: Any) -> int | None:
        selected = [unlabelled(column) for column in self.columns]
        for place, bare in enumerate(selected):
            if hash(bare) == hash(expression):  # the same object, whatever the ORM has noted on it
                return place
        return next((place for place, bare in enumerate(selected) if same(bare, expression)), None)

    def _as_selected(self, node: Any) -> Any:
        place = self._selected(unlabelled(node))
        return node if place is None else self.columns[place]


def _why_not_ordered(expression: Any) -> str:
    function = getattr(expression, "func", expression)
    if is_aggregate(expression) and function.name.lower() in ("count", "sum", "avg"):
        return ""  # numbers, whatever type SQLAlchemy knows of them
    return why_not_ordered(expression)


def _all(tests: Sequence[Test]) -> Test:
    return lambda row: all(test(row) is True for test in tests)
