"""Verdicts remembered: by SQLAlchemy's cache key, or by text.

SQLAlchemy computes the cache key of a statement to find its compiled form, and keeps it in the statement; it says
everything about the SQL but the values of parameters. So two statements with one key have one verdict, and
asking for the key costs nothing that would not be spent anyway. What has no key is classified each time.

Kept are the last ``size`` verdicts in order of use (LRU), and as many statements that a replica has refused: those
are writes whatever the catalogue says, also after it was read again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from sqlalchemy.sql.base import Executable

from tenfold._core.errors import MisuseError
from tenfold.db.classify.catalogue import Catalogue
from tenfold.db.classify.text import classify_text
from tenfold.db.classify.tree import classify_tree
from tenfold.db.classify.verdict import LEARNED, Verdict


class Classifier:
    """`classify` with a memory of ``size`` (1000) verdicts, over a catalogue that may be replaced."""

    __slots__ = ("_catalogue", "_known", "_learned", "_size", "hits", "misses")

    def __init__(self, catalogue: Catalogue | None = None, *, size: int = 1000) -> None:
        if type(size) is not int or size < 1:
            raise MisuseError(f"size: expected a whole number of verdicts to keep, at least 1, got {size!r}")
        self._catalogue = catalogue
        self._size = size
        self._known: OrderedDict[Any, Verdict] = OrderedDict()
        self._learned: OrderedDict[Any, None] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def catalogue(self) -> Catalogue | None:
        """What functions are looked up in. Setting it forgets the verdicts, except what replicas have refused."""
        return self._catalogue

    @catalogue.setter
    def catalogue(self, catalogue: Catalogue | None) -> None:
        self._catalogue = catalogue
        self._known.clear()

    def __call__(self, statement: Executable | str) -> Verdict:
        """The verdict on ``statement``, remembered."""
        key = _key(statement)
        if key is None:
            self.misses += 1
            return classify(statement, self._catalogue)
        known = self._known
        verdict = known.get(key)
        if verdict is not None:
            self.hits += 1
            known.move_to_end(key)
            return verdict
        self.misses += 1
        verdict = LEARNED if key in self._learned else classify(statement, self._catalogue)
        known[key] = verdict
        if len(known) > self._size:
            known.popitem(last=False)
        return verdict

    def learn(self, statement: Executable | str) -> None:
        """A replica has refused it: from now on it is a write."""
        key = _key(statement)
        if key is None:
            return
        self._known[key] = LEARNED
        self._known.move_to_end(key)
        self._learned[key] = None
        for memory in (self._known, self._learned):
            if len(memory) > self._size:
                memory.popitem(last=False)

    @property
    def learned(self) -> int:
        """How many statements replicas have refused."""
        return len(self._learned)

    def __repr__(self) -> str:
        return f"<Classifier {len(self._known)} verdicts, {self.learned} learned, {self.hits} hits, {self._catalogue}>"


def _key(statement: Executable | str) -> Any:
    if isinstance(statement, str):
        return statement
    generate = getattr(statement, "_generate_cache_key", None)
    key = generate() if generate is not None else None
    return None if key is None else key.key


def classify(statement: Executable | str, catalogue: Catalogue | None) -> Verdict:
    """Whether a replica may run ``statement``: an SQLAlchemy statement, or SQL text as the driver gets it.

    ``catalogue`` (`Catalogue.load`) says which functions may write; without it every function but the best known
    is a doubt. What is doubtful is a write with ``sure=False``. Never raises for what a statement holds.
    """
    if isinstance(statement, str):
        return classify_text(statement, catalogue)
    if isinstance(statement, Executable):
        return classify_tree(statement, catalogue)
    raise MisuseError(
        f"classify: expected an SQLAlchemy statement such as select(…) or text(…), or SQL text, got {statement!r}"
    )
