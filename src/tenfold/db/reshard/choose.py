"""Which buckets go where: from what the operator says to legs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tenfold.db.reshard.errors import CannotMove
from tenfold.db.reshard.steps import Leg
from tenfold.db.shards.map import ShardMap


def numbers(text: str) -> tuple[int, ...]:
    """Bucket numbers from ``"0-99,200"``. Raises `CannotMove`."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise CannotMove(f"buckets: expected numbers and ranges such as 0-99,200, got {text!r}")
        if int(last or first) > 65_535:
            raise CannotMove(f"buckets: expected numbers below 65536, got {last or first}")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def named(map: ShardMap, shards: Collection[str], buckets: Sequence[int], to: str) -> tuple[Leg, ...]:
    """Legs that bring ``buckets`` to the shard ``to``."""
    _known(shards, to)
    most = len(map.shards) - 1
    if not buckets:
        raise CannotMove("buckets: expected one at least")
    for bucket in buckets:
        if not 0 <= bucket <= most:
            raise CannotMove(f"buckets: expected 0 to {most}, got {bucket}")
        if map.shards[bucket] == to:
            raise CannotMove(f"buckets: bucket {bucket} is on {to} already; leave it out")
    return _legs((map.shards[bucket], to, bucket) for bucket in buckets)


def emptied(map: ShardMap, shards: Collection[str], shard: str) -> tuple[Leg, ...]:
    """Legs that take every bucket off ``shard`` and deal them to the others, fewest first."""
    _known(shards, shard)
    rest = {name: map.shards.count(name) for name in shards if name != shard}
    if not rest:
        raise CannotMove(f"from: expected another shard to take what {shard} holds; give its URL too")
    moves = []
    for bucket, owner in enumerate(map.shards):
        if owner == shard:
            to = min(rest, key=lambda name: (rest[name], name))
            rest[to] += 1
            moves.append((shard, to, bucket))
    if not moves:
        raise CannotMove(f"from: {shard} holds no bucket")
    return _legs(moves)


def even(map: ShardMap, shards: Collection[str]) -> tuple[Leg, ...]:
    """Legs after which each of ``shards`` holds as many buckets as any other, or one more; as few moves as can be."""
    counts = {name: map.shards.count(name) for name in sorted(shards)}
    least, extra = divmod(len(map.shards), len(counts))
    # Whoever has most keeps the odd bucket: that is one move less.
    order = sorted(counts, key=lambda name: (-counts[name], name))
    wanted = {name: least + (place < extra) for place, name in enumerate(order)}
    moves = []
    for bucket in reversed(range(len(map.shards))):
        owner = map.shards[bucket]
        if counts[owner] > wanted[owner]:
            to = max(wanted, key=lambda name: wanted[name] - counts[name])
            counts[owner] -= 1
            counts[to] += 1
            moves.append((owner, to, bucket))
    if not moves:
        raise CannotMove("the buckets are spread evenly already; nothing to move")
    return _legs(moves)


def _legs(moves: Iterable[tuple[str, str, int]]) -> tuple[Leg, ...]:
    legs: dict[tuple[str, str], list[int]] = {}
    for source, target, bucket in moves:
        legs.setdefault((source, target), []).append(bucket)
    return tuple(
        Leg(source=source, target=target, buckets=tuple(sorted(buckets)))
        for (source, target), buckets in sorted(legs.items())
    )


def _known(shards: Collection[str], name: str) -> None:
    if name not in shards:
        raise CannotMove(f"shard: expected one of {', '.join(shards)}, got {name!r}; give its URL with --shard")
