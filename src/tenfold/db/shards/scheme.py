"""Which tables are sharded by which column, and which stand on every shard: read from the models.

A model says it in its class body, a plain table in its ``info``::

    class Order(Base):
        __tablename__ = "orders"
        __shard_key__ = "customer_id"          # Table(..., info={"shard_key": "customer_id"})

    class Country(Base):
        __tablename__ = "countries"
        __shard_everywhere__ = True            # Table(..., info={"shard_everywhere": True})

Tables with keys of one type share the one map: rows with equal keys live on the same shard, so they can be joined
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import CHAR, Column, Date, Enum, Integer, LargeBinary, MetaData, String, Table, Uuid
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.types import TypeEngine

from tenfold._core.errors import MisuseError
from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.keys import NAMES, Key, check, kind_of

C_COLLATIONS: Final = ("C", "POSIX", "C.UTF-8", "ucs_basic")
"""Collations that compare bytes of UTF-8, which is the order of code points, which is Python's."""


@dataclass(frozen=True, slots=True)
class Sharded:
    """A table that is cut by ``column``, whose values are of ``kind`` (see `keys`)."""

    column: str
    kind: str


@dataclass(frozen=True, slots=True)
class Everywhere:
    """A table that each shard holds in full."""


class Scheme:
    """The tables that a sharded cluster knows.

    ``sources``: declarative bases, mapped classes, `MetaData` or `Table` objects. Models that are declared later are
    found when a statement first names them.
    """

    __slots__ = ("_kinds", "_known", "_sources")

    def __init__(self, *sources: Any) -> None:
        self._sources = sources
        self._known: dict[Any, Sharded | Everywhere] = {}
        self._kinds: set[str] = set()
        for source in sources:
            if not isinstance(source, MetaData | Table) and not hasattr(source, "registry"):
                raise MisuseError(f"models: expected a declarative base, a model, MetaData or Table, got {source!r}")
        self._read()

    def of(self, table: Any) -> Sharded | Everywhere:
        """What ``table`` is. Raises `CannotAnswer` for one that nobody described."""
        found = self._known.get(table)
        if found is None:
            self._read()
            found = self._known.get(table)
        if found is None:
            raise CannotAnswer(
                f"table {table} is not known to be sharded nor to stand on every shard",
                "give its model __shard_key__ or __shard_everywhere__ and hand the model to ShardedCluster(models=[…])",
            )
        return found

    def knows(self, table: Any) -> bool:
        """Whether somebody described ``table``."""
        if table not in self._known:
            self._read()
        return table in self._known

    def sharded(self) -> dict[Table, Sharded]:
        """Every sharded table that is known by now."""
        self._read()
        return {table: what for table, what in self._known.items() if isinstance(what, Sharded)}

    def key(self, given: object) -> Key:
        """``given`` if it is a key by which some table is cut. A 7 that came as the text "7" is on another shard."""
        found = check(given)
        if kind_of(found) not in self._kinds:
            self._read()
            if self._kinds and kind_of(found) not in self._kinds:
                expected = " or ".join(sorted(NAMES[kind] for kind in self._kinds))
                raise MisuseError(
                    f"shard key: expected {expected}, by which tables are cut, got {type(given).__name__}"
                )
        return found

    def _read(self) -> None:
        for source in self._sources:
            if isinstance(source, Table):
                self._add(source, None)
            elif isinstance(source, MetaData):
                for table in source.tables.values():
                    self._add(table, None)
            else:
                for mapper in source.registry.mappers:
                    if issubclass(mapper.class_, source) and isinstance(mapper.local_table, Table):
                        self._add(mapper.local_table, mapper.class_)

    def _add(self, table: Table, model: type | None) -> None:
        if table in self._known:
            return
        name = getattr(model, "__shard_key__", None) or table.info.get("shard_key")
        if name is not None:
            if name not in table.c:
                raise MisuseError(f"__shard_key__: expected a column of {table.name}, got {name!r}")
            kind = key_kind(table.c[name])
            self._known[table] = Sharded(name, kind)
            self._kinds.add(kind)
        elif getattr(model, "__shard_everywhere__", False) or table.info.get("shard_everywhere"):
            self._known[table] = Everywhere()


def of_postgres(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type that PostgreSQL has of one with variants (`TypeEngine.with_variant`)."""
    return type_._variant_mapping.get("postgresql", type_)


def key_kind(column: Column[Any]) -> str:
    """The kind of a key column. Raises `MisuseError` where equality in the database is not equality of bytes."""
    type_ = of_postgres(column.type)
    if isinstance(type_, Integer):
        return "i"
    if isinstance(type_, Uuid) and type_.as_uuid:
        return "u"
    if isinstance(type_, LargeBinary):
        return "b"
    if isinstance(type_, Date):
        return "d"
    plain = isinstance(type_, String) and not isinstance(type_, Enum | CHAR | CITEXT)
    if plain and getattr(type_, "collation", None) in (None, *C_COLLATIONS):
        return "s"
    raise MisuseError(
        f"shard key {column}: expected an integer, uuid, date, bytea, or text without a collation of its own, "
        f"got {type_!r}: equal values must have equal bytes"
    )
