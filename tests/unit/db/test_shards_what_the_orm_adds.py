"""Subqueries of attributes, and relationships, are on one shard where the tables' keys keep their rows together."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Load,
    Mapped,
    column_property,
    joinedload,
    mapped_column,
    relationship,
    with_loader_criteria,
)

from tenfold.db.shards.errors import CannotAnswer
from tenfold.db.shards.homes import _leads_away
from tenfold.db.shards.key import check_loaded
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.plan import plan
from tenfold.db.shards.scheme import Scheme


class Base(DeclarativeBase):
    pass


BETWEEN = sa.Table(
    "added_site_machines",
    Base.metadata,
    sa.Column("site", sa.ForeignKey("added_sites.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
)
APART = sa.Table(
    "added_site_twins",
    Base.metadata,
    sa.Column("site", sa.ForeignKey("added_sites.id"), primary_key=True),
    sa.Column("twin", sa.ForeignKey("added_sites.id"), primary_key=True),
)


class Machine(Base):
    __tablename__ = "added_machines"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_on": "kind", "polymorphic_identity": "machine"}


class Pump(Machine):
    __tablename__ = "added_pumps"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(sa.ForeignKey("added_machines.id"), primary_key=True)
    alarms: Mapped[list[Alarm]] = relationship(viewonly=True)
    __mapper_args__: ClassVar[dict[str, str]] = {"polymorphic_identity": "pump"}


class Alarm(Base):
    __tablename__ = "added_alarms"
    __shard_key__ = "machine"
    machine: Mapped[int] = mapped_column(sa.ForeignKey("added_machines.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Site(Base):
    __tablename__ = "added_sites"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)
    machines: Mapped[list[Machine]] = relationship(
        secondary=BETWEEN,
        primaryjoin=lambda: Site.id == BETWEEN.c.site,
        secondaryjoin=lambda: Machine.id == sa.orm.foreign(BETWEEN.c.site),
        viewonly=True,
    )
    twins: Mapped[list[Site]] = relationship(
        secondary=APART,
        primaryjoin=lambda: Site.id == APART.c.site,
        secondaryjoin=lambda: Site.id == APART.c.twin,
    )


class Country(Base):
    __tablename__ = "added_countries"
    __shard_everywhere__ = True
    id: Mapped[int] = mapped_column(primary_key=True)


class Counted(Base):
    __tablename__ = "added_counted"
    __shard_key__ = "id"
    id: Mapped[int] = mapped_column(primary_key=True)


Machine.alarmed = column_property(  # type: ignore[attr-defined]
    select(func.count(Alarm.number)).where(Alarm.machine == Machine.id).correlate_except(Alarm).scalar_subquery()
)
Counted.all_of_them = column_property(  # type: ignore[attr-defined]
    select(func.count(Counted.__table__.c.id)).scalar_subquery()
)
Country.sites = column_property(  # type: ignore[attr-defined]
    select(func.count(Site.id)).where(Site.id > Country.id).correlate_except(Site).scalar_subquery()
)
SCHEME = Scheme(Base)
SHARDS = ShardMap.hash(["a", "b", "c"])
OVERALL = select(func.avg(Alarm.number)).scalar_subquery()
OTHERS = select(func.max(Alarm.number)).where(Alarm.machine == Machine.id)
DEEP = sa.exists().where(Counted.id == Alarm.machine)
ASTRAY = sa.exists().where(Counted.id == Machine.id)  # is not correlated: the select around it has no machines


def test_an_attribute_of_a_base_class_belongs_to_the_rows_of_those_that_inherit_it() -> None:
    for statement in (select(Machine).where(Machine.id == 3), select(Pump).where(Pump.id == 3)):
        assert plan(statement, None, SCHEME, SHARDS).kind == "single"


@pytest.mark.parametrize("option", [joinedload("*"), Load(Site).joinedload("*")])
def test_everything_may_be_loaded_by_joins(option: Any) -> None:
    statement = select(Alarm).where(Alarm.machine == 3)
    assert plan(statement.options(joinedload("*")), None, SCHEME, SHARDS).kind == "single"
    with pytest.raises(CannotAnswer):
        plan(select(Site).where(Site.id == 3).options(option), None, SCHEME, SHARDS)


@pytest.mark.parametrize(
    "statement",
    [
        select(Counted).where(Counted.id == 3),
        select(Alarm).where(Alarm.machine == 3).options(with_loader_criteria(Alarm, Alarm.number > OVERALL)),
        *(
            select(Machine)
            .where(Machine.id == 3)
            .options(with_loader_criteria(Machine, Machine.id > one.scalar_subquery()))
            for one in (
                OTHERS.correlate(None),
                OTHERS.correlate(Alarm),
                OTHERS.correlate_except(Machine),
                OTHERS.where(ASTRAY),
            )
        ),
    ],
)
def test_a_subquery_that_reads_a_whole_table_is_refused_though_it_is_the_own_one(statement: Any) -> None:
    with pytest.raises(CannotAnswer, match="rows of one shard only"):
        plan(statement, None, SCHEME, SHARDS)


@pytest.mark.parametrize("one", [OTHERS, OTHERS.correlate(Machine), OTHERS.correlate_except(Alarm), OTHERS.where(DEEP)])
def test_a_subquery_that_belongs_to_each_row_is_answered(one: Any) -> None:
    option = with_loader_criteria(Machine, Machine.id > one.scalar_subquery())
    assert plan(select(Machine).where(Machine.id == 3).options(option), None, SCHEME, SHARDS).kind == "single"


def test_a_relationship_by_the_key_of_a_base_class_stays_at_home() -> None:
    assert not _leads_away(sa.inspect(Pump).relationships["alarms"], SCHEME)


def test_a_table_between_that_nobody_described_is_judged_by_its_columns() -> None:
    assert not _leads_away(sa.inspect(Site).relationships["machines"], SCHEME)
    assert _leads_away(sa.inspect(Site).relationships["twins"], SCHEME)


def test_what_is_no_statement_of_rows_is_refused_with_a_reason() -> None:
    for statement in (sa.schema.CreateTable(BETWEEN), sa.text("SELECT 1"), func.now(), sa.Sequence("x")):
        with pytest.raises(CannotAnswer, match="says nothing about its keys"):
            plan(statement, None, SCHEME, SHARDS)


def test_rows_of_a_table_that_stands_everywhere_are_not_where_the_rows_are_that_are_counted_for_them() -> None:
    with pytest.raises(CannotAnswer, match="rows of one shard only"):
        check_loaded(select(Country), SCHEME)
    check_loaded(select(Pump), SCHEME)
