"""What the database knows about its functions, operators and relations, read once and kept.

A name without a schema is looked up along the search path of the connection that read the catalogue,
``pg_catalog`` included. All functions of one name count as one: which of them a call means depends on types that
only the server knows, so one VOLATILE among them makes the name volatile.

Relations count too. A standby refuses unlogged tables (0A000), and a view runs what it is made of: the views'
definitions are classified like any other text, in rounds, until no further view is found to need the primary.
A column of a row may be a call (``t.f`` is ``f(t)``), so the names of volatile functions over rows are kept.
A function declared STABLE whose body, or a default of whose arguments, calls a VOLATILE one counts as volatile; an
aggregate is what its steps are, an operator what its function is, a table what its row-level policies and its
partitions are, a domain what its checks are.
A sequence is the primary's: what is logged of it, and so what a replica shows, is up to 32 numbers ahead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from tenfold.db.classify.verdict import Findings

_FUNCTIONS: Final = text("""
    SELECT n.nspname, p.proname, bool_or('v' IN (p.provolatile, step.provolatile, last.provolatile))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
    LEFT JOIN pg_proc step ON step.oid = a.aggtransfn LEFT JOIN pg_proc last ON last.oid = a.aggfinalfn
    GROUP BY 1, 2
""")
_OPERATORS: Final = text("""
    SELECT n.nspname, p.proname, o.oprname FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
    JOIN pg_namespace n ON n.oid = p.pronamespace WHERE o.oid >= 16384
""")
_ROW_FUNCTIONS: Final = text("""
    SELECT DISTINCT n.nspname, p.proname FROM pg_proc p JOIN pg_type t ON t.oid = p.proargtypes[0]
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.pronargs - p.pronargdefaults <= 1 AND t.typtype IN ('c', 'p') AND p.oid >= 16384
""")
_PRIMARYS: Final = text("""
    WITH RECURSIVE unlogged AS (
        SELECT oid FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'p', 'm')
        UNION SELECT i.inhparent FROM pg_inherits i JOIN unlogged u ON u.oid = i.inhrelid
    )
    SELECT n.nspname, c.relname, 'is unlogged or has an unlogged part, and no replica has it'
    FROM unlogged u JOIN pg_class c ON c.oid = u.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT n.nspname, c.relname, 'is a sequence, which a replica shows ahead of its time'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' OR (c.relname = 'pg_sequences' AND n.nspname = 'pg_catalog')
    UNION ALL
    SELECT n.nspname, c.relname, 'tells of one server, and a replica tells of itself'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'pg_catalog' AND (c.relname ~ '^pg_stat(io)?_' OR c.relname IN (
        'pg_locks', 'pg_prepared_xacts', 'pg_replication_slots', 'pg_replication_origin_status'
    )) AND c.relname NOT IN ('pg_stat_wal_receiver', 'pg_stat_recovery_prefetch', 'pg_stat_database_conflicts')
""")
_CASTS: Final = text("""
    SELECT m.nspname, p.proname, n.nspname, t.typname
    FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc JOIN pg_namespace m ON m.oid = p.pronamespace
    JOIN pg_type t ON t.oid = c.casttarget JOIN pg_namespace n ON n.oid = t.typnamespace WHERE p.oid >= 16384
""")
_DOMAINS: Final = text("""
    WITH RECURSIVE based AS (
        SELECT oid, oid AS base FROM pg_type WHERE typtype = 'd'
        UNION SELECT b.oid, t.typbasetype FROM based b JOIN pg_type t ON t.oid = b.base WHERE t.typtype = 'd'
    )
    SELECT n.nspname, t.typname, 'SELECT WHERE ' || string_agg('(' || pg_get_expr(c.conbin, 0) || ')', ' AND ')
    FROM based b JOIN pg_constraint c ON c.contypid = b.base AND c.conbin IS NOT NULL
    JOIN pg_type t ON t.oid = b.oid JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname <> 'information_schema' GROUP BY 1, 2
""")
_VIEWS: Final = text("""
    SELECT n.nspname, c.relname, pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'v' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
""")
_POLICIES: Final = text("""
    SELECT n.nspname, c.relname, 'SELECT WHERE ' || pg_get_expr(p.polqual, p.polrelid)
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.polqual IS NOT NULL AND p.polcmd IN ('r', '*')
""")
_BODIES: Final = text("""
    SELECT n.nspname, p.proname, concat_ws(
        ' ', coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), pg_get_expr(p.proargdefaults, 0)
    )
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE p.provolatile <> 'v' AND p.prokind IN ('f', 'w') AND p.oid >= 16384 AND l.lanname IN ('sql', 'plpgsql')
    UNION ALL
    SELECT n.nspname, p.proname, string_agg(format('%I.%I()', m.nspname, s.proname), ' ')
    FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_proc s ON s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
    JOIN pg_namespace m ON m.oid = s.pronamespace
    WHERE p.oid >= 16384 GROUP BY 1, 2
""")
_PATH: Final = text("SELECT current_schemas(true), upper(current_setting('default_transaction_isolation'))")


class Catalogue:
    """Functions by name and schema with their volatility, and the relations that only the primary can read."""

    __slots__ = ("_functions", "_names", "_operators", "_path", "_relations", "_row_functions", "level")

    def __init__(
        self,
        functions: Iterable[tuple[str, str, bool]],
        *,
        path: Iterable[str] = ("pg_catalog", "public"),
        operators: Iterable[str] = (),
        row_functions: Iterable[str] = (),
        relations: Mapping[tuple[str, str], str] | None = None,
        level: str = "READ COMMITTED",
    ) -> None:
        self.level = level
        """The isolation level that transactions have by default."""
        self._functions: dict[str, dict[str, bool]] = {}
        for schema, name, volatile in functions:
            self._functions.setdefault(name, {})[schema] = volatile
        self._path = tuple(path)
        self._operators = frozenset(operators)
        self._row_functions = frozenset(row_functions)
        self._relations = dict(relations or {})
        self._names = {name: reason for (_, name), reason in self._relations.items()}

    @classmethod
    async def load(cls, connection: AsyncConnection) -> Catalogue:
        """Read it from the database: nine queries, once. Any server of the cluster will do."""
        return await connection.run_sync(cls.load_from)

    @classmethod
    def load_from(cls, connection: Connection) -> Catalogue:
        """As `load`, from within SQLAlchemy's greenlet."""
        from tenfold.db.classify.text import calls_volatile, classify_text  # the two need each other

        def rows(statement: Any) -> list[Any]:
            return list(connection.execute(statement).all())

        # One that was made between these queries is missing from the first, and taken for VOLATILE.
        functions: dict[tuple[str, str], bool] = defaultdict(lambda: True)
        functions.update({(row[0], row[1]): bool(row[2]) for row in rows(_FUNCTIONS)})
        path, level = rows(_PATH)[0]
        operators = [((row[0], row[1]), row[2]) for row in rows(_OPERATORS)]
        row_functions = [(row[0], row[1]) for row in rows(_ROW_FUNCTIONS)]
        relations = {(row[0], row[1]): row[2] for row in rows(_PRIMARYS)}
        casts = [((row[0], row[1]), (row[2], row[3])) for row in rows(_CASTS)]
        views = [(row[0], row[1], row[2]) for row in rows(_VIEWS) + rows(_POLICIES) + rows(_DOMAINS)]
        bodies = [(row[0], row[1], row[2]) for row in rows(_BODIES)]
        while True:
            known = cls(
                [(schema, name, volatile) for (schema, name), volatile in functions.items()],
                path=path,
                operators=[name for function, name in operators if functions[function]],
                row_functions=[name for schema, name in row_functions if functions[schema, name]],
                relations=relations,
                level=level,
            )
            worse = [
                (schema, name)
                for schema, name, body in bodies
                if not functions[schema, name] and calls_volatile(body, known)
            ]
            more = {
                (schema, name): f"is not for a replica: {verdict.reasons[0]}"
                for schema, name, body in views
                if (schema, name) not in relations and not (verdict := classify_text(body, known)).is_read
            }
            more |= {
                target: "is cast to by a VOLATILE function"
                for function, target in casts
                if functions[function] and target not in relations
            }
            if not more and not worse:
                return known
            relations |= more
            functions |= dict.fromkeys(worse, True)

    def volatile(self, schema: str | None, name: str) -> bool | None:
        """Whether a function of that name may write; None if there is none."""
        found = self._functions.get(name)
        if found is None:
            return None
        places = (schema,) if schema is not None else self._path
        seen = [found[place] for place in places if place in found]
        return any(seen) if seen else None

    def is_built_in(self, schema: str | None, name: str) -> bool:
        """Whether the name means functions of ``pg_catalog`` and no others."""
        if schema is not None:
            return schema == "pg_catalog"
        return not any(place != "pg_catalog" and place in self._path for place in self._functions.get(name, ()))

    def judge_operator(self, name: str, found: Findings) -> None:
        """Note an operator whose function is volatile."""
        if name in self._operators:
            found.doubt(f"the operator {name} calls a VOLATILE function")

    def judge_column(self, name: str, found: Findings) -> None:
        """Note a column's name that may be a call."""
        if name in self._row_functions:
            found.doubt(f"{name} may be a call of a VOLATILE function")

    def judge_relation(self, schema: str | None, name: str, found: Findings, *, anywhere: bool = False) -> None:
        """Note a relation or type that a replica cannot read. ``anywhere``: in whatever schema."""
        if name not in self._names:
            return
        if anywhere or schema is None:
            places = {place for place, other in self._relations if other == name}
            if anywhere or any(place in self._path for place in places):
                found.doubt(f"{name} {self._names[name]}")
        elif (reason := self._relations.get((schema, name))) is not None:
            found.doubt(f"{schema}.{name} {reason}")

    def __repr__(self) -> str:
        return (
            f"<Catalogue {len(self._functions)} functions, {len(self._relations)} relations for the primary only, "
            f"search path {', '.join(self._path)}>"
        )
