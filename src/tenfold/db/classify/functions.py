"""Which function calls a replica may run.

`pg_proc.provolatile` is the ground: IMMUTABLE and STABLE functions do not write, because PostgreSQL does not
let them (a STABLE one that calls a VOLATILE one can; the server then refuses with 25006 and the router runs
the statement again on the primary). VOLATILE means "may do anything". Three lists correct it:

- built-in functions that the catalogue calls volatile and that change nothing (``random``, ``clock_timestamp``);
- functions that a hot standby *accepts* although they belong on the primary: advisory locks, which would lock
  on that replica alone, and what reads or changes the state of a session;
- functions that the catalogue calls stable and a standby refuses (``txid_current`` hands out an identifier).

What is not in the catalogue is a doubt. Names such as ``coalesce`` are grammar, not functions.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from tenfold.db.classify.verdict import Findings


class Functions(Protocol):
    """What is asked of the catalogue."""

    def volatile(self, schema: str | None, name: str) -> bool | None:
        """Whether a function of that name may write; None if there is none."""
        ...

    def is_built_in(self, schema: str | None, name: str) -> bool:
        """Whether the name means functions of ``pg_catalog`` and no others."""
        ...


def words(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


GRAMMAR: Final = words(
    "coalesce greatest least nullif grouping exists any some all array row cast extract overlay position substring "
    "trim treat normalize collation current_catalog current_date current_role current_schema current_time "
    "current_timestamp current_user localtime localtimestamp session_user system_user user xmlconcat xmlelement "
    "xmlexists xmlforest xmlparse xmlpi xmlroot xmlserialize xmltable json_array json_arrayagg json_exists json "
    "json_object json_objectagg json_query json_scalar json_serialize json_table json_value merge_action"
)

# Volatile in the catalogue, and harmless.
HARMLESS: Final = words(
    "random random_normal clock_timestamp timeofday statement_timestamp gen_random_uuid uuidv4 uuidv7 pg_sleep "
    "pg_sleep_for pg_sleep_until pg_is_in_recovery pg_last_wal_receive_lsn pg_last_wal_replay_lsn "
    "pg_last_xact_replay_timestamp pg_get_wal_replay_pause_state pg_is_wal_replay_paused pg_lock_status "
    "pg_relation_size pg_table_size pg_indexes_size pg_total_relation_size pg_database_size pg_tablespace_size "
    "pg_blocking_pids pg_isolation_test_session_is_blocked pg_show_all_settings pg_timezone_names"
)

# By prefix or name: accepted by a standby or called stable, and still the primary's.
_FORCED: Final = {
    "nextval": "changes a sequence",
    "setval": "changes a sequence",
    "currval": "asks for a value that the session drew on the primary",
    "lastval": "asks for a value that the session drew on the primary",
    "set_config": "changes the state of the session",
    "setseed": "changes the state of the session",
    "txid_current": "assigns a transaction identifier",
    "pg_current_xact_id": "assigns a transaction identifier",
    "pg_notify": "notifies",
    "pg_export_snapshot": "exports a snapshot",
    "pg_cancel_backend": "signals a session of one server",
    "pg_terminate_backend": "signals a session of one server",
    "pg_current_wal_lsn": "asks for the primary's position",
    "pg_current_wal_insert_lsn": "asks for the primary's position",
    "pg_current_wal_flush_lsn": "asks for the primary's position",
    "pg_walfile_name": "asks for the primary's position",
    "pg_walfile_name_offset": "asks for the primary's position",
}
_ADVISORY: Final = ("pg_advisory_", "pg_try_advisory_")
_FORCED_CALL: Final = re.compile(rf"\b({'|'.join([*_FORCED, *(f'{name}[a-z_]+' for name in _ADVISORY)])})\s*\(", re.I)

# Without a catalogue: what nobody redefines.
_WELL_KNOWN: Final = words(
    "count sum min max avg bool_and bool_or every array_agg string_agg json_agg jsonb_agg lower upper length abs ceil "
    "floor round now concat replace date_trunc date_part to_char row_number rank dense_rank lag lead first_value "
    "last_value unnest generate_series array_length cardinality"
)


def is_forced(name: str) -> bool:
    """Whether calls of that name go to the primary whatever the catalogue says."""
    return name in _FORCED or name.startswith(_ADVISORY)


def holds_forced(body: str) -> bool:
    """Whether ``body`` writes such a call anywhere, also within a string that it may run (``EXECUTE '…'``)."""
    return _FORCED_CALL.search(body) is not None


def judge(schema: str | None, name: str, catalogue: Functions | None, found: Findings) -> None:
    """Note in ``found`` what speaks against a replica in a call of ``schema.name``."""
    lower = name.lower()
    if schema in (None, "pg_catalog"):
        if lower in _FORCED:
            found.write(f"{lower}() {_FORCED[lower]}")
            return
        if lower.startswith(_ADVISORY):
            found.write(f"{lower}() takes or frees an advisory lock, which a replica would hold for itself alone")
            return
    grammar = schema is None and lower in GRAMMAR
    shown = f"{schema}.{name}" if schema else name
    if catalogue is None:
        if not grammar and (schema is not None or lower not in _WELL_KNOWN):
            found.doubt(f"{shown}() is not known without the catalogue of functions")
        return
    volatile = catalogue.volatile(schema, name)
    if volatile is None:
        if not grammar:
            found.doubt(f"{shown}() is not in the catalogue of functions")
    elif volatile and not (name in HARMLESS and catalogue.is_built_in(schema, name)):
        found.doubt(f"{shown}() is VOLATILE")
