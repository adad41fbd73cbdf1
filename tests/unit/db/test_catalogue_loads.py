"""What the catalogue makes of a database that changes while it is read."""

from __future__ import annotations

from typing import Any

from tenfold.db.classify import Catalogue
from tenfold.db.classify.text import classify_text


class Changing:
    """A database in which a function, its cast and its operator were made after its functions were listed."""

    def __init__(self) -> None:
        self._rows: list[Any] = []

    def execute(self, statement: Any) -> Changing:
        sql = str(statement)
        if "current_schemas" in sql:
            self._rows = [(["public"], "READ COMMITTED")]
        elif "FROM pg_cast" in sql:
            self._rows = [("public", "to_code", "public", "code")]
        elif "FROM pg_operator" in sql:
            self._rows = [("public", "joined", "|||")]
        else:
            self._rows = []
        return self

    def all(self) -> list[Any]:
        return self._rows


def test_a_function_that_is_made_meanwhile_is_taken_for_volatile() -> None:
    changing: Any = Changing()
    catalogue = Catalogue.load_from(changing)
    assert not classify_text("SELECT CAST(a AS code) FROM t", catalogue).is_read
    assert not classify_text("SELECT a ||| b FROM t", catalogue).is_read
