"""The map as a value: stable hashes, strategies, epochs, and the keys that statements name."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import CITEXT

from tenfold._core.errors import MisuseError
from tenfold.db.shards import DirectoryStrategy, Scheme, ShardMap
from tenfold.db.shards.key import locate
from tenfold.db.shards.keys import hashed, read, write

NAMES = ["a", "b", "c", "d"]
FOLDED = sa.String().with_variant(CITEXT(), "postgresql")
KEYS = st.one_of(st.integers(), st.text(), st.binary(), st.uuids(), st.dates())


def test_the_hash_never_changes() -> None:
    """Rows lie where these numbers say: a change of any of them loses data."""
    assert [hashed(key) for key in (0, 1, -1, 2**70, "", "1", "é", b"1", uuid.UUID(int=7), dt.date(2026, 1, 31))] == [
        8859566273657638067,
        12549877395308531466,
        17771941656146502823,
        9544262650221037893,
        16593940277942513374,
        9917286856640899412,
        13454443680327794163,
        11037929603529112794,
        16364172084956260248,
        9464891285704189193,
    ]


@given(KEYS)
def test_a_key_is_read_as_it_was_written(key: Any) -> None:
    assert read(write(key)) == key
    assert type(read(write(key))) is type(key)


def test_kinds_are_told_apart() -> None:
    assert len({hashed(key) for key in (1, "1", b"1")}) == 3
    for nonsense in (True, 1.0, None, dt.datetime(2026, 1, 1), (1,)):
        with pytest.raises(MisuseError, match="shard key: expected"):
            ShardMap.hash(NAMES).bucket_of(nonsense)  # type: ignore[arg-type]


def test_hashed_keys_are_even_and_moves_move_only_their_buckets() -> None:
    old = ShardMap.hash(NAMES)
    counts = Counter(old.shard_of(key) for key in range(20_000))
    assert all(4_600 < counts[name] < 5_400 for name in NAMES)
    new = old.moved(range(0, 1024, 8), "e")
    assert new.epoch == old.epoch + 1
    for key in range(2_000):
        assert new.shard_of(key) == ("e" if old.bucket_of(key) % 8 == 0 else old.shard_of(key))


def test_ranges_and_directories() -> None:
    ranges = ShardMap.range(["a", "b", "a"], [100, 200])
    assert [ranges.shard_of(key) for key in (-5, 99, 100, 199, 200, 10**9)] == ["a", "a", "b", "b", "a", "a"]
    with pytest.raises(MisuseError, match="expected int, got str"):
        ranges.shard_of("x")
    listed = ShardMap.directory(["a", "b"], {7: "big", "7": "b"})
    assert (listed.shard_of(7), listed.shard_of("7")) == ("big", "b")
    assert {listed.shard_of(key) for key in range(100, 200)} == {"a", "b"}
    moved = listed.moved([listed.bucket_of(7)], "bigger")
    assert [key for key in range(1000) if moved.shard_of(key) != listed.shard_of(key)] == [7]


@pytest.mark.parametrize(
    "made",
    [
        ShardMap.hash(NAMES).moved([3, 5], "z").at(9),
        ShardMap.range(["a", "b"], ["m"]),
        ShardMap.directory(NAMES, {1: "x", b"\0": "a", dt.date(2026, 1, 1): "x"}),
    ],
)
def test_a_map_survives_its_storage(made: ShardMap) -> None:
    again = ShardMap.loads(made.dumps())
    assert (again.epoch, again.shards) == (made.epoch, made.shards)
    for key in (0, 1, 99) if "range" not in repr(made) else ("a", "m", "z"):
        assert again.shard_of(key) == made.shard_of(key)


def test_refusals() -> None:
    for make, sentence in (
        (lambda: ShardMap.hash([]), "a list of different names"),
        (lambda: ShardMap.hash("ab"), "a list of different names"),
        (lambda: ShardMap.hash(NAMES, buckets=0), "buckets"),
        (lambda: ShardMap.range(["a", "b"], [5, 5]), "bounds: expected one name|strictly ascending|one name"),
        (lambda: DirectoryStrategy({1: 9999}), "entries: expected buckets"),
        (lambda: ShardMap.hash(NAMES).moved([1024], "a"), "expected 0 to 1023"),
        (lambda: ShardMap.loads("{}"), "cannot read it"),
        (lambda: ShardMap.loads('{"version":2}'), "expected version 1"),
        (
            lambda: Scheme(sa.Table("x", sa.MetaData(), sa.Column("f", sa.Float), info={"shard_key": "f"})),
            "equal bytes",
        ),
        (
            lambda: Scheme(sa.Table("x", sa.MetaData(), sa.Column("f", sa.CHAR(3)), info={"shard_key": "f"})),
            "equal byt",
        ),
        (
            lambda: Scheme(sa.Table("x", sa.MetaData(), sa.Column("f", FOLDED), info={"shard_key": "f"})),
            "CITEXT.* equal bytes",
        ),
        (lambda: Scheme(sa.Table("x", sa.MetaData(), info={"shard_key": "f"})), "expected a column of x"),
        (lambda: Scheme(3), "models: expected"),
    ):
        with pytest.raises(MisuseError, match=sentence):
            make()


META = sa.MetaData()
T = sa.Table(
    "t", META, sa.Column("k", sa.Integer), sa.Column("x", sa.Integer), sa.Column("y", sa.Integer),
    info={"shard_key": "k"},
)  # fmt: skip
U = sa.Table("u", META, sa.Column("k", sa.Integer), sa.Column("x", sa.Integer), info={"shard_key": "k"})
SCHEME = Scheme(META)
K = T.c.k
u2 = U.alias("u2")


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ([K == 1], {1}),
        ([sa.literal(1) == K], {1}),
        ([K.in_([1, 2, None])], {1, 2}),
        ([K == 1, K == 2], set()),
        ([sa.or_(K == 1, K == 2)], {1, 2}),
        ([sa.or_(K == 1, T.c.x == 2)], None),
        ([sa.or_(sa.and_(K == 1, T.c.x == 5), K.in_([3]))], {1, 3}),
        ([K > 1], None),
        ([K != 1], None),
        ([sa.not_(K == 1)], None),
        ([K.not_in([1])], None),
        ([T.c.x == K], None),
        ([sa.literal(1.0) == K], None),
        ([K + 0 == 1], None),
        ([sa.cast(K, sa.Text) == "1"], None),
        ([sa.bindparam("p", 4) == K], {9}),
        ([K.in_(sa.bindparam("many", expanding=True))], {5, 6}),
        ([K.is_(None)], None),
        ([sa.null() == K], None),
        ([], None),
    ],
)
def test_the_keys_of_a_where(where: list[Any], keys: set[int] | None) -> None:
    found = locate(sa.select(T.c.x).where(*where), {"p": 9, "many": [5, 6]}, SCHEME)
    assert found.keys == (None if keys is None else frozenset(keys))
    assert found.apart == ""


def test_joins_share_keys_only_where_they_are_joined_by_them() -> None:
    by_key = sa.select(T.c.x).join(U, sa.and_(U.c.k == K, U.c.x == T.c.x))
    assert locate(by_key.where(U.c.k == 3), None, SCHEME).keys == {3}
    assert locate(by_key.join(u2, u2.c.k == U.c.k).where(K == 3), None, SCHEME).keys == {3}
    assert "not joined on their shard keys" in locate(sa.select(T.c.x).join(U, U.c.x == T.c.x), None, SCHEME).apart
    assert "not joined on their shard keys" in locate(by_key.join(u2, u2.c.x == U.c.k), None, SCHEME).apart
    pinned = sa.select(T.c.x, U.c.x).where(K == 3, U.c.k == 3)
    assert (locate(pinned, None, SCHEME).keys, locate(pinned, None, SCHEME).apart) == ({3}, "")
    assert locate(sa.select(T.c.x, U.c.x).where(K == 3, U.c.k == 4), None, SCHEME).apart
    outer = sa.select(T.c.x).outerjoin(U, sa.and_(U.c.k == K, K == 3))
    assert locate(outer, None, SCHEME).keys is None  # a row without a match is kept, whatever its key
    nested = sa.select(T.c.x).where(K == 3, T.c.x.in_(sa.select(U.c.x).where(U.c.k == 3)))
    assert (locate(nested, None, SCHEME).keys, locate(nested, None, SCHEME).apart) == ({3}, "")
    assert locate(sa.select(T.c.x).where(K == 3, T.c.x.in_(sa.select(U.c.x))), None, SCHEME).apart
    correlated = sa.select(T.c.x).where(K == 3, sa.exists().where(U.c.k == 3, U.c.x == T.c.x))
    assert locate(correlated, None, SCHEME).apart  # too careful, and never wrong


def test_a_write_inside_a_select_is_refused() -> None:
    cte = sa.insert(T).values(k=1).returning(T.c.k).cte()
    with pytest.raises(MisuseError, match="a write inside another statement"):
        locate(sa.select(T.c.x).where(K == 1).add_cte(cte), None, SCHEME)
