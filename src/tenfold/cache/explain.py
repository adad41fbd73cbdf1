"""Why a key is where it is, or why it would miss: looked up without being counted, hit or loaded.

Level 1 says when an entry ends and which barrier it met; level 2 has the record and the nonces of its tags. Which tags
a key carries is not written in either for an entry that is gone, so they are worked out from the declaration of its
function. *When* something was invalidated is remembered for the last 10,000 keys and tags of this process, its own
invalidations and those it heard of (see `forget`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.units import format_duration
from tenfold.cache.codec import Undecodable, lease_of, value_of
from tenfold.cache.declared import Declared, Unreadable
from tenfold.cache.keys import check_tags
from tenfold.cache.level_two import EVERYTHING
from tenfold.cache.lookup import Found, Wanted, read

if TYPE_CHECKING:
    from tenfold.cache.cache import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where a key is and what a look-up would meet.

    ``outcome`` is ``"memory"`` (level 1 answers), ``"level2"``, ``"loading"`` (a load is under way that would be
    joined) or ``"miss"``. ``memory`` and ``level2`` each say in words what is there, or why it does not serve.
    ``age`` (seconds; at most, because the life of an entry is shortened by jitter) and ``left`` are those of the value
    that would answer, None where none would or the function is unknown; ``tags`` are its tags. ``invalidated``
    says what was invalidated last (key, tag or all) and when (Unix time).
    """

    key: str
    outcome: Literal["memory", "level2", "loading", "miss"]
    memory: str
    level2: str
    loading: bool
    age: float | None
    left: float | None
    tags: tuple[str, ...]
    function: str | None
    invalidated: tuple[str, float] | None

    def __str__(self) -> str:
        """Several lines for people."""
        lines = [
            f"{self.key}: {_OUTCOMES[self.outcome]}",
            f"  memory:  {self.memory}",
            f"  level 2: {self.level2}",
            f"  tags:    {', '.join(self.tags) or 'none'}",
        ]
        if self.left is not None:
            age = "" if self.age is None else f", at most {format_duration(self.age)} old"
            lines.append(f"  life:    {format_duration(self.left)} left{age}")
        return "\n".join(lines)


_OUTCOMES: Final = {
    "memory": "a hit in memory",
    "level2": "a hit in level 2",
    "loading": "joins the load under way",
    "miss": "a miss: would be loaded",
}


async def explain(cache: Cache, key: str, tags: Sequence[str] | None) -> Explanation:
    """See `Cache.explain`."""
    if type(key) is not str or not key:
        raise MisuseError(f"key: expected a text that is not empty, got {key!r}; `function.key(…)` makes it")
    declared, carried = _declaration(cache, key, tags)
    shared, engine = cache._shared, cache.engine()
    now = shared.clock.monotonic()
    known = cache.forgetting.invalidated.newest(key, carried)
    entry = shared.memory._index.get(key)
    if entry is not None and entry.tags and tags is None:
        carried = tuple(entry.tags)
        known = cache.forgetting.invalidated.newest(key, carried)
    memory, left = _memory(cache, declared, entry, now, carried)
    in_memory = left is not None
    level2, left2 = await _level2(cache, declared, key, carried)
    loading = key in engine._flights
    outcome: Literal["memory", "level2", "loading", "miss"] = (
        "memory" if in_memory else "loading" if loading else "level2" if left2 is not None else "miss"
    )
    left = left if in_memory else left2 if outcome == "level2" else None
    if known is not None and outcome in ("loading", "miss"):
        memory += f"; {known[0]} invalidated {_ago(cache, known[1])}"
    return Explanation(
        key=key,
        outcome=outcome,
        memory=memory,
        level2=level2,
        loading=loading,
        age=None if left is None or declared is None else max(0.0, declared.spec.ttl - left),
        left=left,
        tags=carried,
        function=None if declared is None else declared.spec.name,
        invalidated=known,
    )


def _declaration(cache: Cache, key: str, tags: Sequence[str] | None) -> tuple[Declared | None, tuple[str, ...]]:
    declared = cache._declared.get(key.partition("(")[0])
    if declared is None:  # a name may have brackets of its own
        declared = next((one for one in cache._declared.values() if key.startswith(one.spec.name + "(")), None)
    if tags is not None:
        return declared, check_tags(tuple(tags), "explain")
    if declared is None:
        return None, ()
    try:
        return declared, declared.tags_of(declared.arguments(key))
    except Unreadable:
        return declared, tuple(tag for tag in declared.tags if "{" not in tag)


def _memory(
    cache: Cache, declared: Declared | None, entry: Any, now: float, tags: Sequence[str]
) -> tuple[str, float | None]:
    """What level 1 has, and the seconds left if it would answer."""
    if declared is not None and not declared.spec.memory:
        return "not used: the function is declared with memory=False", None
    if entry is None:
        return "not there: never stored in this process, invalidated, expired or evicted", None
    if entry.until <= now:
        return f"expired {format_duration(now - entry.until)} ago", None
    barriers = cache._shared.barriers
    if not barriers.good(entry.epoch, entry.tags):
        met = [tag for tag in entry.tags if not barriers.good(entry.epoch, (tag,))]
        why = f"tag {met[0]!r}" if met and barriers.good(entry.epoch, ()) else "everything"
        when = cache.forgetting.invalidated.when(f"t:{met[0]}" if met and why != "everything" else EVERYTHING)
        return f"invalidated: {why}" + ("" if when is None else f" {_ago(cache, when)}"), None
    left = entry.until - now
    return f"there, {format_duration(left)} left, hit {int(entry.n)} times lately", left


async def _level2(cache: Cache, declared: Declared | None, key: str, tags: tuple[str, ...]) -> tuple[str, float | None]:
    """What level 2 has, and the seconds left if it would answer."""
    level2 = cache.engine().level2
    if level2 is None:
        return "there is none", None
    if level2.down:
        return "down: does not answer; look-ups go straight to the loader", None
    (found,) = await read(level2, [Wanted(key, tags)])
    if found is None:
        return "down: did not answer in time", None
    return _record(declared, found, tags)


def _record(declared: Declared | None, found: Found, tags: tuple[str, ...]) -> tuple[str, float | None]:
    if found.record is None:
        return "not there: never stored, invalidated, expired or evicted", None
    if lease_of(found.record) is not None:
        return "no value, but a lease: some process began to load it within the last two minutes", None
    gone = [
        "everything" if at == 0 else f"tag {tags[at - 1]!r}" for at, nonce in enumerate(found.nonces) if nonce is None
    ]
    try:
        good = value_of(found.record, found.nonces)
        if good is None:
            if gone:
                return f"a value that no longer counts: {', '.join(gone)} invalidated", None
            return "a value that no longer counts: one of its tags was invalidated, or it has other tags", None
        expiry, payload = good
        if declared is not None:
            declared.spec.codec.open(payload)
    except Undecodable as error:
        return f"a value that this program cannot read ({error}); it counts as a miss", None
    left = (expiry - found.now) / 1000
    return f"there, {format_duration(left)} left, {len(payload)} bytes", left


def _ago(cache: Cache, when: float) -> str:
    return f"{format_duration(max(0.0, cache._shared.clock.time() - when))} ago"
