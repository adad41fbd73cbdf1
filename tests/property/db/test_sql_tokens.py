"""Our tokens against PostgreSQL's own lexer, on text made of everything that can hide a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.db.classify.tokens import UnreadableTextError, tokens

pglast = pytest.importorskip("pglast")

PIECES = st.sampled_from(
    [
        "select",
        "for",
        "UPDATE",
        "into",
        "f",
        "(",
        ")",
        ",",
        ";",
        "'it''s'",
        "'--'",
        "E'\\' for '",
        "e'\\\\'",
        "$$ for $$",
        "$a$ $$ update $a$",
        "$1",
        "1.5",
        "1e3",
        ".5",
        '"for"',
        '"a""b"',
        '"--"',
        "--x\n",
        "-- for update\n",
        "/* a */",
        "/* /* b */ c */",
        "/*'*/",
        "'/*'",
        "<=",
        "+-",
        "->>",
        "@>",
        "::",
        ":=",
        ".",
        "[",
        "]",
        "*/",
        "-",
        "/",
        "*",
        "ä",
        "a$b",
        "B'01'",
        "x'ff'",
        " ",
        "\n",
        "\t",
        "||",
        "'",
        '"',
        "$$",
        "$b$",
        "/*",
        "!=",
        "a1",
        "_x",
        "N'n'",
        "+#",
        "=-1",
        "<--y\n",
    ]
)


def words_of_postgres(sql: str) -> list[str] | None:
    try:
        found = pglast.parser.scan(sql)
    except pglast.parser.ParseError:
        return None
    out = []
    for token in found:
        text = sql[token.start : token.end + 1]
        if token.name in ("SQL_COMMENT", "C_COMMENT", "NCHAR"):
            continue
        if text[0] == '"' or ((text[0].isalpha() or text[0] == "_") and "'" not in text):
            out.append(text[1:-1].replace('""', '"') if text[0] == '"' else text.lower())
    return out


@given(st.lists(PIECES, max_size=12), st.sampled_from(["", " "]))
def test_the_same_words_as_the_server(pieces: list[str], glue: str) -> None:
    sql = glue.join(pieces)
    theirs = words_of_postgres(sql)
    try:
        ours = [token.text for token in tokens(sql) if token.sort in ("word", "name")]
    except UnreadableTextError:
        return  # a doubt, and so the primary's
    if theirs is not None:
        assert ours == theirs, sql
