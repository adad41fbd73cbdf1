"""Which shard a key lives on: key → virtual bucket (a strategy) → shard (a table), under an epoch.

The two steps are the point (Karger et al. 1997 solve the same with a ring; Dynamo's "strategy 3" and Redis Cluster's
slots with a fixed table, as here). A key's bucket never changes; only buckets change shards, whole, so moving 1/n of
the data to a new shard moves 1/n of the buckets and rehashes nothing. 1,024 buckets keep 2 to 32 shards even within a
few per cent and the map small enough to be one row.

A map is a value. Every change makes a new one with the next *epoch*; the epoch is what shards are fenced by (`store`).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold._core.units import whole_number
from tenfold.db.shards.keys import Key, check, hashed, kind_of, read, write

BUCKETS: Final = 1024
_MOST: Final = 65_536


@dataclass(frozen=True, slots=True)
class HashStrategy:
    """Even by construction: ``hash modulo buckets``. The default."""

    buckets: int = BUCKETS

    def bucket(self, key: Key) -> int:
        return hashed(key) % self.buckets

    def describe(self) -> dict[str, Any]:
        return {"strategy": "hash"}


@dataclass(frozen=True, slots=True)
class RangeStrategy:
    """Neighbours stay together: bucket n holds the keys from ``bounds[n - 1]`` to below ``bounds[n]``.

    Text is ordered by code point (``COLLATE "C"``).
    """

    bounds: tuple[Key, ...]

    def __post_init__(self) -> None:
        kinds = {kind_of(bound) for bound in self.bounds}
        ordered: Sequence[Any] = self.bounds
        if len(kinds) > 1 or None in kinds or any(a >= b for a, b in pairwise(ordered)):
            raise MisuseError("bounds: expected keys of one type in strictly ascending order")

    @property
    def buckets(self) -> int:
        return len(self.bounds) + 1

    def bucket(self, key: Key) -> int:
        checked: Any = check(key, kind_of(self.bounds[0]) if self.bounds else None)
        return bisect_right(self.bounds, checked)

    def describe(self) -> dict[str, Any]:
        return {"strategy": "range", "bounds": [write(bound) for bound in self.bounds]}


@dataclass(frozen=True, slots=True)
class DirectoryStrategy:
    """A table for the keys that deserve a place of their own (one big customer); the others are hashed.

    ``entries`` gives listed keys their bucket, out of ``buckets``; the others are hashed over the first ``spread``.
    """

    entries: Mapping[Key, int]
    buckets: int = BUCKETS
    spread: int = BUCKETS
    _typed: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key, bucket in self.entries.items():
            check(key)
            if not 0 <= bucket < self.buckets:
                raise MisuseError(f"entries: expected buckets of 0 to {self.buckets - 1}, got {bucket} for {key!r}")
        if not 1 <= self.spread <= self.buckets:
            raise MisuseError(f"spread: expected 1 to {self.buckets}, got {self.spread}")
        object.__setattr__(self, "_typed", {write(key): bucket for key, bucket in self.entries.items()})

    def bucket(self, key: Key) -> int:
        found = self._typed.get(write(key))
        return hashed(key) % self.spread if found is None else found

    def describe(self) -> dict[str, Any]:
        return {"strategy": "directory", "entries": dict(sorted(self._typed.items())), "spread": self.spread}


Strategy = HashStrategy | RangeStrategy | DirectoryStrategy


@dataclass(frozen=True, slots=True)
class ShardMap:
    """A version of the map: ``shards[n]`` is the name of the shard that holds bucket n. Made by `hash` and its kind."""

    strategy: Strategy
    shards: tuple[str, ...]
    epoch: int = 1
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Every shard that holds a bucket, sorted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(sorted(set(self.shards))))
        if not 1 <= self.strategy.buckets <= _MOST:
            raise MisuseError(f"buckets: expected 1 to {_MOST}, got {self.strategy.buckets}")
        if len(self.shards) != self.strategy.buckets:
            raise MisuseError(
                f"shards: expected one name for each of the {self.strategy.buckets} buckets, got {len(self.shards)}"
            )
        whole_number(self.epoch, "epoch", least=1)

    @classmethod
    def hash(cls, shards: Sequence[str], *, buckets: int = BUCKETS) -> ShardMap:
        """Hashed keys, the buckets dealt out in turn. ``buckets`` (1,024) cannot be changed later."""
        return cls(HashStrategy(whole_number(buckets, "buckets", least=1)), _dealt(shards, buckets))

    @classmethod
    def range(cls, shards: Sequence[str], bounds: Sequence[Key]) -> ShardMap:
        """Ranges of keys; ``len(bounds) + 1`` buckets, the n-th on ``shards[n]`` (one name for each bucket)."""
        return cls(RangeStrategy(tuple(bounds)), tuple(shards))

    @classmethod
    def directory(cls, shards: Sequence[str], entries: Mapping[Key, str], *, buckets: int = BUCKETS) -> ShardMap:
        """Listed keys on the named shards, all others hashed.

        Each name in ``entries`` gets one bucket of its own past the hashed ones, so listed keys move apart from them.
        """
        names = sorted(set(entries.values()))
        own = {name: buckets + number for number, name in enumerate(names)}
        strategy = DirectoryStrategy({key: own[name] for key, name in entries.items()}, buckets + len(names), buckets)
        return cls(strategy, (*_dealt(shards, buckets), *names))

    def bucket_of(self, key: Key) -> int:
        """The virtual bucket of ``key``. Raises `MisuseError` for what is no key."""
        return self.strategy.bucket(check(key))

    def shard_of(self, key: Key) -> str:
        """The name of the shard that holds ``key``."""
        return self.shards[self.bucket_of(key)]

    def shards_of(self, keys: Iterable[Key]) -> tuple[str, ...]:
        """The shards of several keys, each once, sorted."""
        return tuple(sorted({self.shard_of(key) for key in keys}))

    def moved(self, buckets: Iterable[int], to: str) -> ShardMap:
        """The next version, in which ``buckets`` are on the shard ``to``. Moves no data."""
        shards = list(self.shards)
        for bucket in buckets:
            if not 0 <= bucket < len(shards):
                raise MisuseError(f"buckets: expected 0 to {len(shards) - 1}, got {bucket}")
            shards[bucket] = to
        return replace(self, shards=tuple(shards), epoch=self.epoch + 1)

    def at(self, epoch: int) -> ShardMap:
        """The same places under another epoch."""
        return replace(self, epoch=epoch)

    def dumps(self) -> str:
        """As JSON; `loads` takes it back."""
        names = list(self.names)
        numbers = {name: number for number, name in enumerate(names)}
        body = {
            "version": 1,
            "epoch": self.epoch,
            **self.strategy.describe(),
            "shards": names,
            "buckets": [numbers[name] for name in self.shards],
        }
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def loads(cls, text: str) -> ShardMap:
        """From JSON. Raises `MisuseError` for what `dumps` has not written."""
        try:
            body = json.loads(text)
            if body["version"] != 1:
                raise MisuseError(f"shard map: expected version 1, got {body['version']!r}: upgrade tenfold")
            shards = tuple(body["shards"][number] for number in body["buckets"])
            strategy: Strategy
            if body["strategy"] == "hash":
                strategy = HashStrategy(len(shards))
            elif body["strategy"] == "range":
                strategy = RangeStrategy(tuple(read(bound) for bound in body["bounds"]))
            elif body["strategy"] == "directory":
                entries = {read(key): bucket for key, bucket in body["entries"].items()}
                strategy = DirectoryStrategy(entries, len(shards), body["spread"])
            else:
                raise MisuseError(f"shard map: expected a strategy of hash, range or directory, got {body['strategy']}")
            return cls(strategy, shards, body["epoch"])
        except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise MisuseError(f"shard map: cannot read it ({type(error).__name__}: {error})") from error

    def __repr__(self) -> str:
        counts = {name: self.shards.count(name) for name in self.names}
        return f"ShardMap({self.strategy.describe()['strategy']}, epoch {self.epoch}, buckets {counts})"


def _dealt(shards: Sequence[str], buckets: int) -> tuple[str, ...]:
    if isinstance(shards, str) or not shards or len(set(shards)) != len(shards):
        raise MisuseError(f"shards: expected a list of different names, got {shards!r}")
    return tuple(shards[bucket % len(shards)] for bucket in range(buckets))
