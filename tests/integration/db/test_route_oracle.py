"""A hot standby is the judge: what it refuses as a write (25006, 0A000) must have been classed as one.

Generated SQL runs on a real standby. The other direction is kept by a bound: how many statements that the standby
accepts, and that no rule forces to the primary, are classed as writes all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from tenfold.db.classify import Catalogue
from tenfold.db.classify.text import classify_text, parser

SCHEMA = """
DROP SCHEMA IF EXISTS oracle CASCADE;
CREATE SCHEMA oracle;
SET search_path = oracle;
CREATE TABLE goods (id int PRIMARY KEY, name text NOT NULL, stock int NOT NULL DEFAULT 0);
INSERT INTO goods SELECT n, 'good ' || n, n FROM generate_series(1, 20) n;
CREATE SEQUENCE numbers;
CREATE UNLOGGED TABLE scratch (id int);
CREATE FUNCTION counts() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT nextval(''oracle.numbers'')';
CREATE FUNCTION lies() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT oracle.counts()';
CREATE FUNCTION lies_modern() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT oracle.lies(); END;
CREATE FUNCTION lies_long() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN oracle.counts(); END $$;
CREATE FUNCTION total() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT sum(stock) FROM oracle.goods';
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * n';
CREATE FUNCTION idle() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
CREATE FUNCTION "over"(n int) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT nextval(''oracle.numbers'')';
CREATE FUNCTION drawn(goods) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT nextval(''oracle.numbers'')';
CREATE FUNCTION step(a bigint, b int) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT nextval(''oracle.numbers'')';
CREATE AGGREGATE drawing(int) (SFUNC = step, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION plus(a int, b text) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT nextval(''oracle.numbers'')';
CREATE OPERATOR +# (LEFTARG = int, RIGHTARG = text, FUNCTION = plus);
CREATE VIEW cheap AS SELECT id, name FROM goods WHERE stock > 3;
CREATE VIEW numbered AS SELECT nextval('oracle.numbers') AS n, id FROM goods;
CREATE VIEW over_numbered AS SELECT * FROM numbered;
CREATE VIEW over_scratch AS SELECT * FROM scratch;
CREATE PROCEDURE adds() LANGUAGE sql AS 'INSERT INTO oracle.goods VALUES (1000, ''x'', 0)';
"""

# -- generated SQL

numbers = st.integers(0, 30).map(str)
tables = st.sampled_from(["goods", "oracle.goods", "cheap", "ONLY goods"])
RISKY = ["numbered", "over_numbered", "scratch", "over_scratch", "numbers"]
risky_tables = st.sampled_from(RISKY)
quiet = st.sampled_from(
    ["id", "count(*)", "max(id)", "now()", "lower('A')", "twice(id)", "oracle.total()", "coalesce(id, 1)", "random()",
     "current_date", "'it''s for update'", "$$insert into goods$$", "E'\\'' || 'delete'", "id::text",
     "CAST(id AS text)",
     "array_agg(id)", "CASE WHEN id = 1 THEN 'update' END", "gen_random_uuid()", "extract(year FROM now())",
     "row_number() OVER (ORDER BY id)", "count(*) FILTER (WHERE id > 2)", "clock_timestamp()", "id IN (1, 2)",
     "string_agg(name, ',')", "substring('abc' FROM 2)", "1 + id * 2", "pg_is_in_recovery()", "current_setting('port')",
     "json_build_object('update', id)", "NULLIF(id, 3)", "id::numeric(10, 2)", 'id AS "update"', "left('abc', 2)"]
)  # fmt: skip
LOUD = (
    ["nextval('numbers')", "counts()", "oracle.counts()", "lies()", "lies_long()", "lies_modern()", "txid_current()",
     "setval('numbers', 3)", '"over"(1)', 'oracle."over"(1)', "drawing(id)", "1 +# 'x'", "pg_notify('a', 'b')",
     "pg_current_xact_id()", "idle()", "lo_create(0)", "(SELECT nextval('numbers'))", "Counts ( )",
     "coalesce(counts(), 1)",
     "pg_advisory_lock(7)", "set_config('application_name', 'x', false)", "currval('numbers')", "lo_creat(-1)",
     "pg_try_advisory_xact_lock_shared(9)", "row(counts())", "pg_export_snapshot()", "pg_switch_wal()",
     "query_to_xml('select nextval(''numbers'')', true, true, '')", "pg_logical_emit_message(true, 'a', 'b')"]
)  # fmt: skip
loud = st.sampled_from(LOUD)
columns = st.one_of(quiet, quiet, quiet, loud)
locks = st.sampled_from(["", "", "", "", " FOR UPDATE", " FOR SHARE", " FOR NO KEY UPDATE", " for /* x */ key share"])
noise = st.sampled_from(["", " ", "\n", " -- for update\n", " /* delete /* nested */ from goods */ "])


@st.composite
def selects(draw: st.DrawFn, depth: int = 2) -> str:
    shown = ", ".join(f"({draw(columns)})" if draw(st.booleans()) else "1" for _ in range(draw(st.integers(1, 2))))
    if depth == 0:
        return f"SELECT{draw(noise)} {shown} FROM {draw(st.one_of(tables, tables, risky_tables))} LIMIT 2"
    inner = selects(depth - 1)
    change = st.sampled_from(
        ["INSERT INTO goods VALUES (900, 'x', 1) RETURNING id", "DELETE FROM goods WHERE id = 900 RETURNING id",
         "UPDATE goods SET stock = 1 WHERE id = 1 RETURNING id"]
    )  # fmt: skip
    form = draw(st.integers(0, 8))
    if form == 0:
        return f"WITH a AS ({draw(inner)}) SELECT 1 FROM a"
    if form == 1:
        return f"WITH a(b) AS (SELECT id FROM goods) SELECT {draw(columns)} FROM a, goods"
    if form == 2:
        return f"WITH c AS ({draw(change)}) SELECT * FROM c"
    if form == 3:
        return f"SELECT 1 FROM goods WHERE EXISTS ({draw(inner)}){draw(locks)}"
    if form == 4:
        return f"SELECT x.* FROM goods, LATERAL ({draw(inner)}) x"
    if form == 5:
        return f"SELECT g.drawn FROM goods g{draw(locks)}"
    if form == 6:
        return f"(SELECT id FROM goods WHERE id = {draw(numbers)}) UNION ALL (SELECT id FROM cheap{draw(locks)})"
    if form == 7:
        return f"SELECT * FROM (SELECT * FROM goods{draw(locks)}) AS inner_one WHERE id > {draw(numbers)}"
    return f"SELECT {shown} FROM goods WHERE id < {draw(numbers)} GROUP BY id, name, stock"


others = st.sampled_from(
    ["VALUES (1), (2)", "TABLE goods", "SHOW work_mem", "SHOW ALL", "VALUES (nextval('numbers'))",
     "INSERT INTO goods VALUES (901, 'y', 1)", "INSERT INTO goods DEFAULT VALUES", "UPDATE goods SET stock = 1",
     "DELETE FROM goods", "TRUNCATE goods", "CREATE TABLE n (a int)", "CREATE TEMP TABLE n (a int)",
     "SELECT 1 AS a INTO other", "SELECT 1 AS a INTO TEMP other", "CREATE TABLE o AS SELECT 1", "DROP TABLE goods",
     "MERGE INTO goods g USING cheap c ON g.id = c.id WHEN MATCHED THEN DELETE", "CALL adds()", "LISTEN a", "NOTIFY a",
     "UNLISTEN *", "LOCK TABLE goods IN EXCLUSIVE MODE", "VACUUM goods", "ANALYZE goods",
     "CREATE INDEX ON goods (name)",
     "COMMENT ON TABLE goods IS 'x'", "GRANT SELECT ON goods TO public", "REINDEX TABLE goods", "CLUSTER goods",
     "ALTER TABLE goods ADD x int", "REFRESH MATERIALIZED VIEW v", "CREATE SCHEMA z", "DISCARD TEMP",
     "ALTER ROLE x RESET ALL",
     "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1", "SET x.y = 'z'", "SET ROLE none", "DO $$ BEGIN END $$",
     "PREPARE p AS INSERT INTO goods VALUES (1)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CHECKPOINT",
     "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1", "BEGIN READ WRITE", "PREPARE TRANSACTION 'a'",
     "SELECT 1; DELETE FROM goods", "SELECT 1; SELECT 2", "SECURITY LABEL ON TABLE goods IS 'x'",
     "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c"]
)  # fmt: skip
explained = st.builds(
    "EXPLAIN {} {}".format,
    st.sampled_from(["", "ANALYZE", "(ANALYZE)", "(ANALYZE false)", "(ANALYZE, BUFFERS)", "VERBOSE", "(analyze on)"]),
    st.one_of(selects(1), st.just("DELETE FROM goods"), st.just("UPDATE goods SET stock = 1")),
)
statements = st.one_of(selects(), selects(), selects(), others, explained)


@dataclass
class Tally:
    accepted: int = 0
    refused: int = 0
    invalid: int = 0
    ordinary: int = 0
    needless: dict[bool, list[str]] = field(default_factory=lambda: {True: [], False: []})
    ordinary_needless: dict[bool, list[str]] = field(default_factory=lambda: {True: [], False: []})


@dataclass
class Standby:
    runner: asyncio.Runner
    connection: Any
    catalogue: Catalogue
    tally: Tally

    def verdict_of(self, sql: str) -> str:
        """The SQLSTATE with which the standby answers, empty if it accepts."""
        return self.runner.run(self._verdict_of(sql))

    async def _verdict_of(self, sql: str) -> str:
        try:
            await self.connection.execute(sql)
        except asyncpg.PostgresError as error:
            return error.sqlstate or "?"
        finally:
            if self.connection.is_in_transaction():
                await self.connection.execute("ROLLBACK")
            await self.connection.execute("SELECT pg_advisory_unlock_all(); DEALLOCATE ALL; CLOSE ALL; RESET ROLE")
        return ""


@pytest.fixture(scope="module")
def standby(topology: Any) -> Iterator[Standby]:
    async def prepare() -> tuple[Any, Catalogue]:
        primary = await asyncpg.connect(topology.primary.url)
        await primary.execute(SCHEMA)
        await primary.close()
        replica = topology.replicas[0]
        await replica.caught_up()
        engine = create_async_engine(
            replica.url.replace("postgresql://", "postgresql+asyncpg://"),
            connect_args={"server_settings": {"search_path": "oracle,public"}},
        )
        async with engine.connect() as connection:
            catalogue = await Catalogue.load(connection)
        await engine.dispose()
        return await asyncpg.connect(replica.url, server_settings={"search_path": "oracle,public"}), catalogue

    with asyncio.Runner() as runner:
        connection, catalogue = runner.run(prepare())
        yield Standby(runner, connection, catalogue, Tally())
        runner.run(connection.close())


# What only the adversary writes; a statement with none of these is an ordinary read.
ODD = (
    "counts", "lies", "numbers", "numbered", "scratch", "idle", "drawn", "drawing", "+#", '"over"', "lo_", "txid",
    "xact", "pg_notify", "advisory", "snapshot", "switch", "logical", "set_config",
)  # fmt: skip


def judge(standby: Standby, sql: str) -> None:
    state = standby.verdict_of(sql)
    tally = standby.tally
    modes = [False] if parser() is None else [True, False]
    verdicts = {parsed: classify_text(sql, standby.catalogue, parsed=parsed) for parsed in modes}
    if state in ("25006", "0A000"):
        tally.refused += 1
        for parsed, verdict in verdicts.items():
            assert verdict.kind == "write", f"refused with {state}, classed as a read ({parsed=}): {sql}"
    elif state:
        tally.invalid += 1
    else:
        tally.accepted += 1
        ordinary = not any(odd in sql.lower() for odd in ODD)
        tally.ordinary += ordinary and all(verdict.kind == "read" or not verdict.sure for verdict in verdicts.values())
        for parsed, verdict in verdicts.items():
            if verdict.kind == "write" and not verdict.sure:  # what is sure is forced by a rule, and rightly
                tally.needless[parsed].append(f"{sql}   {verdict}")
                if ordinary:
                    tally.ordinary_needless[parsed].append(f"{sql}   {verdict}")


@pytest.mark.parametrize("examples", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_what_a_standby_refuses_is_classed_as_a_write(standby: Standby, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(sql=statements)
    def judged(sql: str) -> None:
        judge(standby, sql)

    tally = standby.tally = Tally()
    judged()
    assert min(tally.refused, tally.ordinary) > examples * 0.25, tally  # or it says nothing
    rates = {parsed: round(len(found) / tally.accepted, 3) for parsed, found in tally.needless.items()}
    plain = {parsed: round(len(found) / tally.ordinary, 3) for parsed, found in tally.ordinary_needless.items()}
    print(
        f"\n{tally.accepted} accepted, {tally.refused} refused, {tally.invalid} invalid; classed as writes needlessly "
        f"(parsed or by tokens): of all accepted {rates}, of {tally.ordinary} ordinary reads {plain}"
    )
    assert tally.ordinary_needless[True] == []  # with the parser an ordinary read is always known to be one
    assert plain[False] <= 0.05, tally.ordinary_needless[False]
    assert max(rates.values()) <= 0.12, rates


def test_each_trap_by_itself(standby: Standby) -> None:
    refused = []
    for sql in (
        *[f"SELECT {trap} FROM goods" for trap in LOUD],
        *[f"SELECT * FROM {trap}" for trap in RISKY],
        "SELECT g.drawn FROM goods g",
        "SELECT (g).drawn FROM goods g",
    ):
        state = standby.verdict_of(sql)
        if state in ("25006", "0A000"):
            refused.append(sql)
            for parsed in (True, False):
                assert classify_text(sql, standby.catalogue, parsed=parsed).kind == "write", f"{parsed=}: {sql}"
    assert "SELECT drawing(id) FROM goods" in refused
    assert len(refused) > 20, refused


# They change the server that the test runs on, or others' connections.
LEAVE_OUT = "^(pg_wal_replay|pg_stat_reset|pg_reload|pg_rotate|pg_log|pg_promote|pg_stat_clear)"


def test_every_built_in_function_without_arguments(standby: Standby) -> None:
    rows = standby.runner.run(
        standby.connection.fetch(
            "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' "
            "AND pronargs = 0 AND proname !~ $1 AND prorettype <> 'trigger'::regtype ORDER BY 1",
            LEAVE_OUT,
        )
    )
    refused, read = [], []
    for (name,) in rows:
        sql = f'SELECT pg_catalog."{name}"()'
        state = standby.verdict_of(sql)
        kind = classify_text(sql, standby.catalogue).kind
        if state in ("25006", "0A000", "55000"):  # the last: "recovery is in progress"
            refused.append(name)
            assert kind == "write", f"{name} is refused with {state}"
        elif not state and kind == "read":
            read.append(name)
    assert {"txid_current", "pg_current_wal_lsn"} <= set(refused)
    assert len(read) > 60, read
