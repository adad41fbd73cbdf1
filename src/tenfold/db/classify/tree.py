"""The verdict on an SQLAlchemy statement.

Two layers. The tree is walked first: DML and DDL are writes by their type, wherever they stand (a CTE, a
subquery), and so are row locks and sequences. That is cheap, needs no parser and gives sure answers.

But what a tree *contains* is not all that it *emits*: a mapped ``column_property``, a joined eager load, a
``prefix_with``, a user's ``@compiles`` are not among the children of the statement. So a tree in which no write
was found is compiled as the driver would get it, and the text has the last word. Compiling costs as much as
SQLAlchemy's own first compilation, once for each shape of statement.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import ExecutableDDLElement, Sequence
from sqlalchemy.sql import visitors
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.dml import Delete, Insert, Update, UpdateBase
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.functions import FunctionElement, next_value
from sqlalchemy.sql.selectable import ForUpdateArg

from tenfold.db.classify.catalogue import Catalogue
from tenfold.db.classify.text import classify_text
from tenfold.db.classify.verdict import Findings, Verdict
from tenfold.db.dialect import DIALECT

_EXPANDED: Final = re.compile(r"__\[POSTCOMPILE_[^\]]*\]")
_NAMES: Final = ((Insert, "INSERT"), (Update, "UPDATE"), (Delete, "DELETE"), (UpdateBase, "DML"))


def classify_tree(statement: Executable, catalogue: Catalogue | None, *, parsed: bool = True) -> Verdict:
    """The verdict on ``statement``; ``parsed`` as in `classify_text`."""
    found = Findings()
    if isinstance(statement, FunctionElement):
        statement = select(statement)  # as SQLAlchemy runs it
    if isinstance(statement, ExecutableDDLElement):
        found.write("it is DDL")
    elif isinstance(statement, Sequence):
        found.write("it draws from a sequence")
    elif not isinstance(statement, ClauseElement):
        found.doubt(f"a {type(statement).__name__} is not known here")
    else:
        for element in visitors.iterate(statement):
            _element(element, element is statement, found)
    if found.wrote:
        return found.verdict()
    try:
        sql = str(cast("ClauseElement", statement).compile(dialect=DIALECT))
    except (SQLAlchemyError, NotImplementedError) as error:
        found.doubt(f"it cannot be compiled alone ({type(error).__name__})")
        return found.verdict()
    found.add(classify_text(_EXPANDED.sub("NULL", sql), catalogue, parsed=parsed))
    return found.verdict()


def _element(element: Any, itself: bool, found: Findings) -> None:
    if isinstance(element, ForUpdateArg):
        found.write("it locks rows")
    elif isinstance(element, (next_value, Sequence)):
        found.write("it draws from a sequence")
    elif isinstance(element, UpdateBase):
        name = next(name for kind, name in _NAMES if isinstance(element, kind))
        found.write(f"it {'is' if itself else 'holds'} {name}")
