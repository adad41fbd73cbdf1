"""A statement that is built anew for each call is located by what it says, whatever its like has said before."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from tenfold.db.shards.froms import _ALIKE, _MOST_ALIKE, final_froms
from tenfold.db.shards.key import locate
from tenfold.db.shards.map import ShardMap
from tenfold.db.shards.plan import plan
from tenfold.db.shards.scheme import Scheme


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "alike_visits"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]


class Step(Base):
    __tablename__ = "alike_steps"
    __shard_key__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    visit_id: Mapped[int]


SCHEME = Scheme(Base)


def joined(key: int) -> Any:
    return select(Visit.id).join(Step, sa.and_(Step.customer == Visit.customer, Visit.customer == key))


def renamed(key: int) -> Any:
    other = aliased(Visit)
    return select(other.id).where(other.customer == key)


def nested(key: int) -> Any:
    inner = select(Step.visit_id).where(Step.customer == key)
    return select(Visit.id).where(Visit.customer == key, Visit.id.in_(inner))


def explicit(key: int) -> Any:
    return select(sa.literal(1)).select_from(Visit).where(Visit.customer == key)


@pytest.mark.parametrize(
    "build",
    [
        lambda key: select(Visit.id).where(Visit.customer == key),
        lambda key: select(Visit).where(Visit.customer == key),
        lambda key: select(Visit.__table__.c.id).where(Visit.__table__.c.customer == key),
        lambda key: select(Visit.id, Step.id).where(Visit.customer == Step.customer, Step.customer == key),
        joined,
        renamed,
        nested,
        explicit,
    ],
)
def test_each_of_many_alike_has_its_own_key(build: Any) -> None:
    for key in (1, 2, 3, 2, 1):
        statement = build(key)
        assert locate(statement, None, SCHEME).keys == frozenset({key})
        assert [str(one) for one in final_froms(statement)] == [str(one) for one in statement.get_final_froms()]


def test_other_tables_of_the_same_shape_are_told_apart() -> None:
    for one in (Visit, Step):
        assert final_froms(select(one.id).where(one.customer == 1)) == (one.__table__,)


def test_what_is_known_is_bounded() -> None:
    for width in range(1, 2 * _MOST_ALIKE):
        final_froms(
            select(*[Visit.id.label(f"x{n}") for n in range(width % 3)], sa.literal_column(f"{width}"), Visit.id)
        )
        assert len(_ALIKE) <= _MOST_ALIKE


def test_a_selected_column_is_found_and_not_sent_twice() -> None:
    """The ORM's columns carry notes and are other objects than the table's; they are the same column."""
    shards = ShardMap.hash(["a", "b"])
    for chosen in (Visit.id, Visit.__table__.c.id):
        for sorted_by in (Visit.id, Visit.__table__.c.id, sa.desc("id")):
            made = plan(select(Visit.customer, chosen).order_by(sorted_by), None, SCHEME, shards)
            assert made.merge is not None
            assert [term.position for term in made.merge.order] == [1]
            assert len(made.statement.selected_columns) == 3  # and the epoch
    shifted = plan(select(Visit.id + 1).order_by(Visit.id + 1), None, SCHEME, shards)
    assert shifted.merge is not None
    assert [term.position for term in shifted.merge.order] == [0]
    assert (
        plan(select(Visit.id).order_by(Visit.id).limit(0).offset(9), None, SCHEME, shards)
        .why[-1]
        .startswith("each shard sends 0 rows")
    )
