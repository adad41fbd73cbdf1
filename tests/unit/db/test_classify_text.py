"""The verdict on SQL text, by PostgreSQL's parser and by tokens alone: the same where both can know."""

from __future__ import annotations

import pytest

from tenfold.db.classify import Catalogue
from tenfold.db.classify.text import classify_text, parser

CATALOGUE = Catalogue(
    [
        ("pg_catalog", "count", False),
        ("pg_catalog", "random", True),
        ("pg_catalog", "lower", False),
        ("pg_catalog", "extract", False),
        ("pg_catalog", "substring", False),
        ("public", "writes", True),
        ("public", "reads", False),
        ("public", "random", True),
        ("hidden", "reads", True),
        ("hidden", "only_there", False),
        ("public", "over", True),
        ("public", "Odd Name", True),
    ],
    path=("pg_catalog", "public"),
    operators=["+#"],
    row_functions=["drawn"],
    relations={("public", "scratch"): "is unlogged, and no replica has it"},
)
MODES = [pytest.param(True, marks=pytest.mark.skipif(parser() is None, reason="needs pglast")), False]

READS = [
    "select 1",
    "SELECT lower('A'), count(*), reads(1) FROM t WHERE a IN (1, 2) AND b = ANY (ARRAY[1])",
    "select 'update' -- for update",
    "select $$for update$$, $x$ into $$ $x$, E'\\' delete from t'",
    "/* insert /* nested */ into */ select 1",
    'select "update", "into" from "delete"',
    "(select 1) union all (values (2))",
    "table t",
    "with a(x, y) as (select 1, 2) select x::numeric(10, 2), cast(y as varchar(3)) from a",
    "select coalesce(a, 1), extract(year from b), substring('x' from 1) from t",
    "show server_version",
    "explain select 1",
    "explain (analyze, buffers) select 1",
    "explain delete from t",
    "select 1; select 2;",
    "select $1::int",
    "select a from t order by b fetch first 3 rows only",
]
WRITES = {
    "insert into t values (1)": "it is INSERT",
    "update t set a = 1": "it is UPDATE",
    "merge into t using s on t.a = s.a when matched then delete": "it is MERGE",
    "select 1 for update": "locks rows",
    "select 1 from (select 1 from t for no key update) x": "locks rows",
    "select 1 for /* x */ key share": "locks rows",
    "select 1 into temp t": "INTO",
    "select 1; delete from t": "it is DELETE",
    "explain analyze delete from t": "it is DELETE",
    "explain (analyze true) update t set a = 1": "it is UPDATE",
    "select nextval('s')": "changes a sequence",
    "select pg_catalog.setval('s', 1)": "changes a sequence",
    "select Pg_Advisory_Lock(1)": "advisory lock",
    "select set_config('a', 'b', true)": "state of the session",
    "do $$ begin end $$": "",
    "prepare p as insert into t values (1)": "",
    "copy t to stdout": "",
    "listen a": "",
    "notify a": "",
    "set a.b = 'c'": "",
    "begin isolation level serializable": "",
    "create temp table t (a int)": "",
    "declare c cursor for select 1": "",
    "call p()": "",
    "lock table t": "",
}
DOUBTS = {
    "select writes()": "writes() is VOLATILE",
    "select public.writes ( )": "public.writes() is VOLATILE",
    "select lower(a) from t where reads(writes())": "writes() is VOLATILE",
    'select "Odd Name"()': "Odd Name() is VOLATILE",
    'select public."over"(1)': "over() is VOLATILE",
    "select random()": "random() is VOLATILE",  # the built-in is harmless; another of that name is on the path
    "select hidden.reads()": "hidden.reads() is VOLATILE",
    "select only_there()": "not in the catalogue",
    "select nowhere()": "not in the catalogue",
    "select 1 +# 2": "the operator +#",
    "select t.drawn from t": "drawn may be a call",
    "select * from scratch": "is unlogged",
    "explain select * from public.scratch": "is unlogged",
    "": "no statement",
    "-- only this": "no statement",
}


@pytest.mark.parametrize("parsed", MODES)
@pytest.mark.parametrize("sql", READS)
def test_reads(sql: str, parsed: bool) -> None:
    verdict = classify_text(sql, CATALOGUE, parsed=parsed)
    assert verdict.is_read, str(verdict)
    assert verdict.sure


@pytest.mark.parametrize("parsed", MODES)
@pytest.mark.parametrize(("sql", "reason"), WRITES.items())
def test_writes(sql: str, reason: str, parsed: bool) -> None:
    verdict = classify_text(sql, CATALOGUE, parsed=parsed)
    assert (verdict.kind, verdict.sure) == ("write", True), str(verdict)
    assert reason in str(verdict)


@pytest.mark.parametrize("parsed", MODES)
@pytest.mark.parametrize(("sql", "reason"), DOUBTS.items())
def test_what_is_not_known_is_a_write_to_be_safe(sql: str, reason: str, parsed: bool) -> None:
    verdict = classify_text(sql, CATALOGUE, parsed=parsed)
    assert (verdict.kind, verdict.sure) == ("write", False), str(verdict)
    assert reason in str(verdict)


@pytest.mark.parametrize(
    "sql", ["select 'open", "select /* open", "select $a$ open", 'select "open', "select U&'\\0041'"]
)
def test_text_that_cannot_be_read_is_a_doubt(sql: str) -> None:
    verdict = classify_text(sql, CATALOGUE, parsed=False)
    assert (verdict.kind, verdict.sure) == ("write", False), str(verdict)


def test_a_change_inside_a_query() -> None:
    sql = "with a as (delete from t returning b) select b from a"
    if parser() is not None:
        assert str(classify_text(sql, CATALOGUE)) == "write; it holds DELETE"
    assert str(classify_text(sql, CATALOGUE, parsed=False)) == "write (to be safe); it holds the word DELETE"


def test_without_a_catalogue_only_the_best_known_functions_pass() -> None:
    assert classify_text("select count(*), lower(a), coalesce(a, b) from t", None).is_read
    for sql in ("select reads()", "select public.lower('a')"):
        assert "without the catalogue" in str(classify_text(sql, None))


def test_a_grammar_word_does_not_hide_a_user_s_function() -> None:
    own = Catalogue([("public", "grouping", True)])
    assert not classify_text('select "grouping"(1)', own).is_read
    assert not classify_text('select "grouping"(1)', own, parsed=False).is_read
