"""The ``conftest.py`` under which SQLAlchemy's own dialect suite runs here: stock, over the cluster's pools, or routed.

Copied by `test_dialect_suite.py` into a folder of its own, where it is read by another pytest. ``TENFOLD_SUITE`` says
how: ``stock`` is SQLAlchemy alone. ``pools`` makes every engine of the suite as a `Node` makes its own: the cluster's
pool, taps and options, on the primary that the cluster elected. ``routed`` sends, besides, what surely is a read and
begins a transaction of the suite's main engine through a routed session, so that it runs on a replica, within one
causality scope for all of the suite. Engines that a test makes for itself stay on the primary: they are for what lives
in one connection (temporary tables, search paths). So does an engine while a test listens to what it sends.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import provision  # noqa: F401 - registers itself
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.base import Executable
from sqlalchemy.testing import asyncio as suite_asyncio
from sqlalchemy.testing import exclusions
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: F403
from sqlalchemy.testing.requirements import SuiteRequirements
from sqlalchemy.util import await_only

from tenfold.db import AsyncCluster, CausalOptions, create_async_cluster
from tenfold.db import node as node_module
from tenfold.db.causality import CAUSALITY, Causality
from tenfold.db.session import RoutedSession

HOW = os.environ["TENFOLD_SUITE"]
REPLICAS = os.environ["TENFOLD_SUITE_REPLICAS"].split()
REPORT = os.environ["TENFOLD_SUITE_REPORT"]

OPEN = """
autocommit autoincrement_insert check_constraint_reflection column_collation_reflection comment_reflection
comment_reflection_full_unicode computed_columns computed_columns_reflect_persisted computed_columns_stored
create_table_as create_temp_table_as ctes ctes_on_dml ctes_with_update_delete ctes_with_values date_historic datetime
datetime_historic default_schema_name_switch deferrable_fks delete_from duplicate_key_raises_integrity_error except_
expression_server_defaults fetch_expression fetch_first fetch_no_order_by fetch_offset_with_options fetch_ties
fk_constraint_option_reflection_ondelete_noaction fk_constraint_option_reflection_ondelete_restrict
fk_constraint_option_reflection_onupdate_restrict foreign_key_constraint_name_reflection
foreign_key_constraint_option_reflection_ondelete foreign_key_constraint_option_reflection_onupdate foreign_key_ddl
has_temp_table identity_columns identity_columns_standard implicit_default_schema index_ddl_if_exists index_reflection
indexes_check_column_order indexes_with_ascdesc infinity_floats isolation_level json_array_indexes json_type
materialized_views nullable_booleans order_by_col_from_union order_by_collation precision_generic_float_type
recursive_fk_cascade reflect_table_options reflects_pk_names regexp_match regexp_replace schemas server_side_cursors
skip_autocommit_rollback standalone_binds supports_bitwise_and supports_bitwise_not supports_bitwise_or
supports_bitwise_shift supports_bitwise_xor supports_distinct_on supports_is_distinct_from symbol_names_w_double_quote
table_ddl_if_exists table_reflection table_value_constructor temp_table_names temp_table_reflection temporary_tables
temporary_views time_timezone tuple_in_w_empty unique_constraint_reflection unique_constraints_reflect_as_index
update_from update_where_target_in_subquery uuid_data_type view_column_reflection views window_functions window_range
window_range_non_numeric window_range_numeric
""".split()  # noqa: SIM905 - one in each line would be a page
PATIENT = CausalOptions(wait="10s", answer="10s")
LEVELS = ["AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


class Requirements(SuiteRequirements):
    """What PostgreSQL can; the suite leaves out what nobody says it can."""

    def get_isolation_levels(self, config: Any) -> dict[str, Any]:
        return {"default": "READ COMMITTED", "supported": LEVELS}

    def get_order_by_collation(self, config: Any) -> str:
        return "POSIX"


for _name in OPEN:
    assert hasattr(Requirements, _name), _name
    setattr(Requirements, _name, property(lambda self: exclusions.open()))


clusters: list[AsyncCluster] = []
counted = {"primary": 0}
everything = Causality()
"""What the suite has committed so far: each of its reads must see that."""
stock_create_engine = sqlalchemy.create_engine


def through_the_cluster(url: str | URL, **options: Any) -> Engine:
    """`sqlalchemy.create_engine` for the suite: the engine of the node that the cluster has elected."""
    if not clusters:
        plain = make_url(url).set(drivername="postgresql")
        clusters.append(create_async_cluster(plain, REPLICAS, connect_timeout="10s", causal=PATIENT))
    cluster = clusters[0]
    node = await_only(cluster.writer())
    own = {**node.options.engine(), **options}
    if own.pop("poolclass", None) is not None:
        own["pool_size"] = 1  # the suite means one connection, for what lives in it
    engine = node._made(write=True, **own).sync_engine
    if HOW == "routed" and not options:
        engine._connection_cls = RoutedConnection
    return engine


class RoutedConnection(Connection):
    """Reads that begin a transaction go where a routed session sends them; everything else, and what follows it in the
    transaction, stays on this connection, which is the primary's.
    """

    _wrote = False
    _reader: RoutedSession | None = None

    def execute(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        if self._wrote or self.closed or self.in_nested_transaction() or not isinstance(statement, Executable):
            return super().execute(statement, parameters, execution_options=execution_options)
        cluster = clusters[0]
        cluster.router.keep_fresh()
        if (
            self._own_level()
            or self.engine.dispatch.after_cursor_execute
            or not cluster.router.classifier(statement).is_read
        ):
            return super().execute(statement, parameters, execution_options=execution_options)
        if not self.in_transaction():
            self._autobegin()
        if self._reader is None:
            self._reader = cluster.session().sync_session
        reset = CAUSALITY.set(everything)
        try:
            return self._reader.execute(
                statement, parameters, execution_options={**self._execution_options, **(execution_options or {})}
            )
        finally:
            CAUSALITY.reset(reset)

    def _own_level(self) -> bool:
        return "isolation_level" in self._execution_options

    def _execute_context(self, *arguments: Any, **options: Any) -> Any:
        self._wrote = True
        counted["primary"] += 1
        try:
            return super()._execute_context(*arguments, **options)
        finally:
            if self._own_level():
                self._ended(committed=True)

    def _commit_impl(self) -> None:
        super()._commit_impl()
        self._ended(committed=True)

    def _rollback_impl(self) -> None:
        super()._rollback_impl()
        self._ended()

    def close(self) -> None:
        super().close()
        self._ended()

    def _ended(self, *, committed: bool = False) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        if self._wrote and committed:
            reset = CAUSALITY.set(everything)
            clusters[0].causal.committed()
            CAUSALITY.reset(reset)
        self._wrote = False


def made(url: URL, **options: Any) -> AsyncEngine:
    """`create_async_engine` for the node, without its refusal of what the suite asks of synchronous engines."""
    return AsyncEngine(stock_create_engine(url, **options))


if HOW != "stock":
    node_module.create_async_engine = made
    sqlalchemy.create_engine = through_the_cluster

results: dict[str, str] = {}


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: Any) -> None:
    name = report.nodeid.partition("::")[2]
    if report.when == "call" or report.outcome != "passed":
        results[name] = report.outcome


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    told: dict[str, Any] = {"results": results, "counted": counted}
    for cluster in clusters:
        router = cluster.router
        told["router"] = {
            name: getattr(router, name)
            for name in ("reads_on_replicas", "reads_on_primary", "sent_to_primary", "refused", "repeated")
        }
        told["checkouts"] = sum(node.account.checkouts for node in suite_asyncio._async_util.run(_nodes, cluster))
        suite_asyncio._async_util.run(cluster.aclose)
    with open(REPORT, "w", encoding="utf-8") as file:
        json.dump(told, file)


async def _nodes(cluster: AsyncCluster) -> Any:
    return cluster.nodes()
