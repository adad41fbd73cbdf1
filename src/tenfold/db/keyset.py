"""Keyset pagination: page 1,000 costs what page 1 costs, and rows that come or go shift nothing.

The theory stands in `tenfold.db.keyset_order`, what a cursor is in `tenfold.db.cursors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Select, Table
from sqlalchemy.engine import Result
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.selectable import Alias
from sqlalchemy.sql.visitors import iterate

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number
from tenfold.db.cursors import Place, Signer, encode
from tenfold.db.dialect import DIALECT
from tenfold.db.keyset_order import Part, after, part_of

T = TypeVar("T")
LARGEST_PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page. ``items`` in the list's order; ``next`` and ``previous`` are cursors, None where the list ends.

    ``previous`` is None on the first page. On a page reached by a cursor it is given without a look whether a row
    is there.
    """

    items: list[T]
    next: str | None
    previous: str | None


class Keyset(Generic[T]):
    """A list that is read page by page, forward and backward::

        products = Keyset(select(Product).where(Product.shop == 7), [Product.price.desc(), Product.name], secret=SECRET)
        page = await products.page(session, cursor)        # cursor: None, or what an earlier page gave out

    ``statement`` has the filters and no ORDER BY or LIMIT of its own. Its ``order`` is a list of columns or
    expressions with ``.asc()``, ``.desc()``, ``.nulls_first()``, ``.nulls_last()`` (defaults: PostgreSQL's, NULLs are
    the greatest). The primary key is appended as tie-breaker unless it is in ``order``; from more than one table
    ``unique=[…]`` must name columns that together are unique in the result and never NULL. ``size`` (20) is the page's.
    Cursors are signed by ``secret`` (16 bytes or more, or several: see `tenfold.db.cursors.Signer`) and tied to order,
    filters and their values.

    A cursor holds for the list as it is when it is used: rows inserted before it are not seen, none is seen twice,
    except a row whose sort key was changed in between.

    Raises `MisuseError` for what has no total order; `page` raises `CursorError` for cursors that are not its own.
    """

    __slots__ = ("_digest", "_parts", "_signer", "_statement", "_width", "size")

    def __init__(
        self,
        statement: Select[Any],
        order: Sequence[Any],
        *,
        secret: bytes | str | Sequence[bytes | str] | Signer,
        size: int = 20,
        unique: Sequence[Any] = (),
    ) -> None:
        self.size: Final = whole_number(size, "size", least=1)
        if size > LARGEST_PAGE:
            raise MisuseError(f"size: expected {LARGEST_PAGE} at most, got {size}; stream what is no page")
        _refuse(statement)
        outer = _has_outer_join(statement)
        ordered = [replace(part, nullable=True) if outer else part for part in map(part_of, order)]
        self._parts: Final = _total(statement, ordered, [part_of(one) for one in unique])
        self._signer: Final = secret if isinstance(secret, Signer) else Signer(secret)
        self._statement: Final = statement
        self._width: Final = len(statement.column_descriptions)
        self._digest: Final = _digest(statement.order_by(*[part.ordering() for part in self._parts]))

    def statement(self, cursor: str | None = None) -> Select[Any]:
        """The SELECT of that page: one row more than ``size``, and the sort key's values as last columns.

        For a synchronous session: hand its result and the same cursor to `collect`.
        """
        return self._select(self._place(cursor))

    def collect(self, result: Result[Any], cursor: str | None = None) -> Page[T]:
        """The page in the result of ``statement(cursor)``."""
        return self._page(result, self._place(cursor), first=cursor is None)

    async def page(self, session: AsyncSession | AsyncConnection, cursor: str | None = None) -> Page[T]:
        """The page at ``cursor``, by one query; the first without one. Raises `CursorError`."""
        place = self._place(cursor)
        return self._page(await session.execute(self._select(place)), place, first=cursor is None)

    def _place(self, cursor: str | None) -> Place:
        if cursor is None:
            return Place("after", None)
        return self._signer.read(cursor, self._digest, [part.kind for part in self._parts])

    def _select(self, place: Place) -> Select[Any]:
        parts = self._parts if place.way == "after" else [part.reversed() for part in self._parts]
        keys = [part.told.label(f"tenfold_key_{number}") for number, part in enumerate(parts)]
        chosen = self._statement.add_columns(*keys).order_by(*[part.ordering() for part in parts])
        if place.values is not None:
            chosen = chosen.where(after(parts, place.values))
        return chosen.limit(self.size + 1)

    def _page(self, result: Result[Any], place: Place, *, first: bool) -> Page[T]:
        frozen = result.freeze()
        rows = frozen().columns(*range(self._width))
        items: list[Any] = list(rows.scalars() if self._width == 1 else rows)
        keys = [tuple(row) for row in frozen().columns(*range(self._width, self._width + len(self._parts)))]
        more = len(items) > self.size
        items, keys = items[: self.size], keys[: self.size]
        forward = place.way == "after"
        if not forward:
            items.reverse()
            keys.reverse()
        beyond = more if forward else True  # backward: we came from there
        before = (not first and place != Place("after", None)) if forward else more
        if not forward and place.values is None:
            beyond = False  # the last page
        return Page(
            items,
            self._cursor(Place("after", keys[-1] if keys else None)) if beyond else None,
            self._cursor(Place("before", keys[0] if keys else None)) if before else None,
        )

    def _cursor(self, place: Place) -> str:
        return self._signer.sign(place, self._digest)

    def last(self) -> str:
        """The cursor of the last page."""
        return self._cursor(Place("before", None))

    def __repr__(self) -> str:
        return f"<Keyset by {', '.join(str(part.ordering()) for part in self._parts)}, {self.size} a page>"


def _total(statement: Select[Any], order: list[Part], unique: list[Part]) -> tuple[Part, ...]:
    """``order`` with what makes it unique appended, in the last part's direction so that a row comparison fits."""
    if not unique:
        sources = statement.get_final_froms()
        source = sources[0] if len(sources) == 1 else None
        table = source.element if isinstance(source, Alias) else source
        if source is None or not isinstance(table, Table) or not list(source.primary_key):
            raise MisuseError(
                "keyset: the statement does not read one table with a primary key, so its rows cannot be told apart; "
                "name columns that are unique together in the result: unique=[Order.id, Item.id]"
            )
        unique = [part_of(column) for column in source.primary_key]
    descending = bool(order) and order[-1].descending
    missing = [
        replace(one, descending=descending, nulls_first=descending, nullable=False)
        for one in unique
        if not any(one.is_column(part) for part in order)
    ]
    return (*order, *missing)


def _has_outer_join(statement: Select[Any]) -> bool:
    """Whether a column that is never NULL in its table may be NULL in the result."""
    return any(
        getattr(element, "isouter", False) or getattr(element, "full", False)
        for source in statement.get_final_froms()
        for element in iterate(source)
    )


def _refuse(statement: Select[Any]) -> None:
    if not isinstance(statement, Select):
        raise MisuseError(f"keyset: expected a select(), got {type(statement).__name__}")
    for clause, present in (
        ("ORDER BY", len(statement._order_by_clauses)),
        ("LIMIT", statement._limit_clause is not None),
        ("FETCH", statement._fetch_clause is not None),
        ("OFFSET", statement._offset_clause is not None),
        ("GROUP BY", len(statement._group_by_clauses)),
        ("DISTINCT", statement._distinct),
    ):
        if present:
            raise MisuseError(
                f"keyset: the statement has {clause} of its own; give the order to Keyset, and put grouping and "
                "DISTINCT into a subquery: select(grouped.subquery()) with unique=[…]"
            )


def _digest(statement: Select[Any]) -> str:
    """Names the query: its text and the values in it, the same in every process."""
    compiled = statement.compile(dialect=DIALECT)
    values = [[name, encode(value)] for name, value in sorted(compiled.params.items())]
    text = json.dumps([str(compiled), values], separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()
