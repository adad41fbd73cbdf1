"""The verdict on SQLAlchemy statements, and how it is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    DDL,
    Column,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, column_property, joinedload, mapped_column, relationship
from sqlalchemy.schema import CreateTable, ForeignKey
from sqlalchemy.sql.elements import ColumnElement

from tenfold._core.errors import MisuseError
from tenfold.db.classify import Catalogue, Classifier, classify
from tenfold.db.classify.tree import classify_tree

ITEMS = Table("items", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
CATALOGUE = Catalogue([("pg_catalog", "count", False), ("pg_catalog", "lower", False), ("public", "writes", True)])
NEW = insert(ITEMS).values(id=1).returning(ITEMS.c.id).cte("new")


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = column_property(func.nextval("numbers"))


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owners.id"))
    owner: Mapped[Owner] = relationship()


class Hidden(ColumnElement[int]):
    """A user's own construct: nothing inside shows what it emits."""

    inherit_cache = True


@compiles(Hidden)
def _hidden(element: Hidden, compiler: Any, **_: Any) -> str:
    return "writes()"


@pytest.mark.parametrize("parsed", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        select(ITEMS).where(ITEMS.c.id.in_([1, 2]), ITEMS.c.name == bindparam("name")).limit(3),
        select(func.count(), func.lower(ITEMS.c.name)).group_by(ITEMS.c.name),
        select(ITEMS.c.id).union_all(select(ITEMS.c.id)),
        select(Thing),
        select(aliased(Thing).id),
        select(select(ITEMS).cte("a")),
        text("select id from items where name = :name"),
        text("select 'a' as \"update\", '\\:b'"),
    ],
)
def test_reads(statement: Any, parsed: bool) -> None:
    verdict = classify_tree(statement, CATALOGUE, parsed=parsed)
    assert verdict.is_read, str(verdict)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (insert(ITEMS).values(id=1), "it is INSERT"),
        (update(ITEMS).values(id=1), "it is UPDATE"),
        (delete(ITEMS), "it is DELETE"),
        (upsert(ITEMS).values(id=1).on_conflict_do_nothing(), "it is INSERT"),
        (select(NEW.c.id), "it holds INSERT"),
        (select(ITEMS).add_cte(NEW), "it holds INSERT"),
        (select(select(ITEMS.c.id).with_for_update().scalar_subquery()), "it locks rows"),
        (select(Thing).with_for_update(read=True), "it locks rows"),
        (select(Sequence("numbers").next_value()), "it draws from a sequence"),
        (Sequence("numbers"), "it draws from a sequence"),
        (CreateTable(ITEMS), "it is DDL"),
        (DDL("DROP TABLE items"), "it is DDL"),
        (select(Owner), "nextval() changes a sequence"),
        (select(Thing).options(joinedload(Thing.owner)), "nextval() changes a sequence"),
        (select(func.count()).where(text("nextval('numbers') > 1")), "nextval() changes a sequence"),
        (text("vacuum"), ""),
    ],
)
def test_writes(statement: Any, reason: str) -> None:
    for parsed in (True, False):
        verdict = classify_tree(statement, CATALOGUE, parsed=parsed)
        assert (verdict.kind, verdict.sure) == ("write", True), str(verdict)
        assert reason in str(verdict)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (select(func.writes()), "writes() is VOLATILE"),
        (select(func.elsewhere.count()), "not in the catalogue"),
        (select(Hidden()), "writes() is VOLATILE"),
        (select(ITEMS.c.id).prefix_with(text("writes(),")), ""),
        (select(ITEMS.c.id).with_statement_hint("for update"), ""),
    ],
)
def test_what_is_not_known_is_a_write_to_be_safe(statement: Any, reason: str) -> None:
    verdict = classify(statement, CATALOGUE)
    assert verdict.kind == "write", str(verdict)
    assert reason in str(verdict)


def test_one_verdict_for_one_shape() -> None:
    verdicts = Classifier(CATALOGUE)
    for number in range(5):
        assert verdicts(select(ITEMS).where(ITEMS.c.id == number)).is_read
    assert (verdicts.hits, verdicts.misses) == (4, 1)
    assert verdicts("select 1") is verdicts("select 1")
    assert not verdicts(select(ITEMS).where(ITEMS.c.id == 1).with_for_update()).is_read
    assert verdicts(text("select 1")).is_read
    assert "7 verdicts" not in repr(verdicts)
    assert "4 verdicts" in repr(verdicts)


def test_the_memory_is_bounded_and_keeps_what_is_used() -> None:
    verdicts = Classifier(CATALOGUE, size=3)
    for sql in ("select 1", "select 2", "select 3", "select 1", "select 4", "select 1"):
        verdicts(sql)
    assert (verdicts.hits, verdicts.misses) == (2, 4)
    for number in range(10):
        verdicts.learn(f"select {number}")
    assert verdicts.learned == 3
    with pytest.raises(MisuseError, match="size: expected a whole number"):
        Classifier(size=0)


def test_what_was_learned_outlives_the_catalogue() -> None:
    verdicts = Classifier(None)
    statement = select(func.writes())
    assert "without the catalogue" in str(verdicts(statement))
    verdicts.catalogue = CATALOGUE
    assert "VOLATILE" in str(verdicts(statement))
    verdicts.learn(select(ITEMS))
    verdicts.catalogue = CATALOGUE
    assert str(verdicts(select(ITEMS))) == "write; a replica has refused it before"
    assert verdicts(select(ITEMS.c.id)).is_read


def test_what_is_no_statement_is_refused() -> None:
    with pytest.raises(MisuseError, match="expected an SQLAlchemy statement"):
        classify(42, None)  # type: ignore[arg-type]
