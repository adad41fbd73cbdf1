"""Who sent this query: tags that a database administrator sees, and statement caches that stay warm.

The usual way (sqlcommenter, google.github.io/sqlcommenter) appends a comment to the text. But the text is the key of
the driver's cache of prepared statements: with a trace id in it, every execution is a text of its own, is parsed and
planned anew and pushes a useful one out. So tags are told apart by how many values they have:

- *few values* (route, action, application) go into the text, in sqlcommenter's format. No more than ``max_texts``
  combinations ever do; what comes then is left out and counted, so a path with an id in it cannot spoil the caches;
- *many values* (trace) go into ``application_name`` for the transaction, in the same message as BEGIN
  (`tenfold.db.begin`): seen in ``pg_stat_activity`` and, by ``%a``, in every line of the server's log. No text changes
  and there is no round trip;
- for a ``sample`` of executions they go into the text after all, for tools that read comments.

pg_stat_statements takes a statement's shape and not its text, so comments do not split its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import Random
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from tenfold._core.errors import MisuseError
from tenfold._core.units import share, whole_number
from tenfold.db.begin import HasNodes, at_begin, before_first_use, for_each_engine

_NAME_BYTES: Final = 63
"""NAMEDATALEN - 1: what PostgreSQL keeps of an application_name."""

_TAGS: Final[ContextVar[dict[str, str]]] = ContextVar("tenfold_query_tags")


@contextmanager
def query_tags(**tags: str) -> Iterator[None]:
    """Tag the queries of this block and of the tasks begun in it::

        with query_tags(route="/orders/{id}", trace=trace_id): ...

    Tags of an outer block stay unless named again.
    """
    for name, value in tags.items():
        if not isinstance(value, str):
            raise MisuseError(f"query_tags: {name}= expected text, got {value!r}")
    token = _TAGS.set({**_TAGS.get({}), **tags})
    try:
        yield
    finally:
        _TAGS.reset(token)


def comment(tags: Sequence[tuple[str, str]]) -> str:
    """``/*key='value',…*/`` as sqlcommenter has it: sorted, URL-encoded, so that nothing can end it early. "" for none.

    See google.github.io/sqlcommenter/spec.
    """
    if not tags:
        return ""
    return "/*" + ",".join(f"{_quoted(key)}='{_quoted(value)}'" for key, value in sorted(tags)) + "*/"


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")  # half a surrogate pair, of a header's bad bytes, is no query's fault


def application_name(tags: Sequence[tuple[str, str]]) -> str:
    """``SET LOCAL application_name = …``, printable ASCII, cut to 63 bytes. "" for no tags."""
    if not tags:
        return ""
    told = " ".join(f"{key}={value}" for key, value in tags)
    clean = "".join(one if " " <= one <= "~" and one != "\\" else "?" for one in told)[:_NAME_BYTES]
    return "SET LOCAL application_name = '" + clean.replace("'", "''") + "'"


class QueryTags:
    """Puts the tags in force on the queries of ``target`` (an engine or a cluster, not used yet).

    Needs no running loop: make it where the engine or cluster is made. A cluster's queries are tagged in every loop. Of
    several for one target the last counts, from then on, and a query is tagged once.

    ``in_text`` (``("route",)``): tags with few values. ``in_name`` (``("trace", "route")``): those that
    ``application_name`` shows, first things first, since it has 63 bytes. ``max_texts`` (100): combinations of values
    that may ever go into a text. ``sample`` (0): share of executions whose text gets all tags, each at the price of
    preparing it anew.

    With tags in the text a statement is prepared once per combination and connection. If more than 100 texts are in use
    on one, raise SQLAlchemy's ``prepared_statement_cache_size``. Raises `MisuseError` as `tenfold.db.begin.at_begin`.
    """

    __slots__ = ("_in_name", "_in_text", "_random", "_sample", "_texts", "left_out", "max_texts", "sampled")

    def __init__(
        self,
        target: AsyncEngine | HasNodes,
        *,
        in_text: Sequence[str] = ("route",),
        in_name: Sequence[str] = ("trace", "route"),
        max_texts: int = 100,
        sample: float | str = 0.0,
        random: Callable[[], float] | None = None,
    ) -> None:
        for option, names in (("in_text", in_text), ("in_name", in_name)):
            if isinstance(names, str):
                raise MisuseError(f'QueryTags: {option}= expected a list of names such as ["route"], got {names!r}')
        self._in_text, self._in_name = tuple(in_text), tuple(in_name)
        self.max_texts: Final = whole_number(max_texts, "max_texts", least=1)
        self._sample = share(sample, "sample")
        self._random = random or Random().random
        self._texts: dict[tuple[str | None, ...], str] = {}
        self.left_out = 0
        """Executions without a comment because there were too many combinations."""
        self.sampled = 0
        """Executions whose text got all tags."""
        for_each_engine(target, self._install, "query tags")

    def _install(self, engine: Engine) -> None:
        known = _INSTALLED.get(engine)
        if known is not None:
            known[0] = self
            return
        before_first_use(engine)
        now = _INSTALLED[engine] = [self]
        at_begin(engine, lambda: now[0]._name())

        @event.listens_for(engine, "before_cursor_execute", retval=True)
        def add(
            connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
        ) -> tuple[str, Any]:
            more = now[0]._comment()
            return (f"{statement} {more}" if more else statement), parameters

    def _comment(self) -> str:
        tags = _TAGS.get(None)
        if not tags:
            return ""
        if self._sample and self._random() < self._sample:
            self.sampled += 1
            return comment(list(tags.items()))
        values = tuple(map(tags.get, self._in_text))
        found = self._texts.get(values)
        if found is None:
            if len(self._texts) >= self.max_texts:
                self.left_out += 1
                return ""
            pairs = zip(self._in_text, values, strict=True)
            found = self._texts[values] = comment([(key, value) for key, value in pairs if value is not None])
        return found

    def _name(self) -> str:
        tags = _TAGS.get(None)
        if not tags:
            return ""
        return application_name([(key, tags[key]) for key in self._in_name if key in tags])

    def __repr__(self) -> str:
        return f"<QueryTags texts={len(self._texts)}/{self.max_texts} left_out={self.left_out} sampled={self.sampled}>"


_INSTALLED: Final[WeakKeyDictionary[Engine, list[QueryTags]]] = WeakKeyDictionary()
"""One for each engine, in a list so that its place can be taken."""
