"""From the text of a TOML file to a `Config`, or to one sentence for each thing that is wrong with it.

All problems are gathered before any is raised: a table that is wrong is left out of what follows, and what follows is
judged all the same.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final, Literal, cast

from tenfold.gateway.config import cross, engines
from tenfold.gateway.config.config import STORE_KEYS, Config
from tenfold.gateway.config.environment import Substitution
from tenfold.gateway.config.kinds import WRONG, Reading
from tenfold.gateway.config.options import Admin, Edge, Engine, Gateway
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.positions import Path, Positions
from tenfold.gateway.config.problems import Findings, GatewayConfigError, Problem
from tenfold.gateway.config.rule import Route
from tenfold.gateway.config.tables import Options, Table, written
from tenfold.resilience.config_read import unknown

EngineName = Literal["embedded", "haproxy"]
LARGEST: Final = 4 * 1024 * 1024
"""Bytes of a file at most."""
_TABLES: Final = ("gateway", "admin", "edge", "engine", "pool", "route")
_PLACE: Final = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)


def load_config(
    path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None, engine: EngineName | None = None
) -> Config:
    """The configuration in a file; see `read_config`.

    Raises `GatewayConfigError`, for a file that cannot be read, too.
    """
    name = os.fspath(path)
    try:
        content = FilePath(path).read_bytes()
    except OSError as exc:
        raise GatewayConfigError(
            [Problem(name, 1, "", f"expected a file to read, got: {exc.strerror or exc}")]
        ) from exc
    if len(content) > LARGEST:
        raise GatewayConfigError([Problem(name, 1, "", f"expected {LARGEST} bytes at most, got {len(content)}")])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise GatewayConfigError([Problem(name, line, "", "expected UTF-8, got something else")]) from exc
    return read_config(text, name, environ=environ, engine=engine)


def read_config(
    text: str,
    file: str = "gateway.toml",
    *,
    environ: Mapping[str, str] | None = None,
    engine: EngineName | None = None,
) -> Config:
    """The configuration that ``text`` says. ``file`` is what problems call it, ``environ`` (the process's) has the
    values of ``${NAME}``, ``engine`` stands in for ``[engine] name``.

    Raises `GatewayConfigError` with every problem, each with its line.
    """
    document = _parsed(text, file)
    findings = Findings(file, Positions(text))
    places = Substitution(os.environ if environ is None else environ, findings)
    document = places.document(document)
    for name in document:
        if name not in _TABLES:
            findings.wrong((name,), unknown(name, _TABLES, "table"))
    reading = Reading(findings, places.whole)

    gateway = _one(Gateway, document, "gateway", reading)
    admin = _one(Admin, document, "admin", reading) if "admin" in document else None
    edge = _one(Edge, document, "edge", reading)
    chosen = _one(Engine, document, "engine", reading)
    if engine is not None and chosen is not WRONG and chosen.name != engine:
        chosen = Engine(name=engine, reconcile=chosen.reconcile)
    pools: dict[int, Pool] = _several(Pool, document, "pool", reading)
    routes: dict[int, Route] = _several(Route, _with_edge(document, edge, reading), "route", reading)
    for n, route in routes.items():
        if not route.name:
            routes[n] = replace(route, name=f"route-{n + 1}")
    if not document.get("route"):
        findings.wrong(("route",), "expected at least one table [[route]], got none")

    cross.check(gateway, admin, pools, routes, _names(document), findings)
    if chosen is not WRONG:
        for path, sentence in engines.refusals(chosen.name, gateway, pools, routes):
            findings.wrong(path, sentence)
        for path, sentence in engines.differences(chosen.name, gateway, pools, routes):
            findings.doubtful(path, sentence)
    findings.raise_any()
    return Config(
        gateway=gateway,
        admin=admin,
        edge=edge,
        engine=chosen,
        pools=tuple(pools.values()),
        routes=tuple(routes.values()),
        warnings=tuple(sorted(findings.warnings)),
    )


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        match = _PLACE.fullmatch(str(exc))
        last = text.rstrip("\n").count("\n") + 1
        line = int(match["line"]) if match and match["line"] else last
        what = match["what"] if match else str(exc)
        raise GatewayConfigError(
            [Problem(file, line, "", f"expected TOML, got what breaks its rules: {what}")]
        ) from exc
    except RecursionError:
        raise GatewayConfigError([Problem(file, 1, "", "expected a configuration, got brackets without end")]) from None


def _one(cls: type[Options], document: Mapping[str, Any], name: str, reading: Reading) -> Any:
    given = document.get(name, {})
    if not isinstance(given, dict):
        return reading.wrong((name,), f"expected a table [{name}], got {_shape(given)}")
    return Table(cls).read(given, (name,), reading)


def _several(cls: type[Options], document: Mapping[str, Any], name: str, reading: Reading) -> dict[int, Any]:
    given = document.get(name, [])
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        reading.wrong((name,), f"expected tables [[{name}]], got {_shape(given)}")
        return {}
    found = {n: Table(cls).read(each, (name, n), reading) for n, each in enumerate(given)}
    return {n: each for n, each in found.items() if each is not WRONG}


def _shape(given: object) -> str:
    if isinstance(given, dict):
        return "one table in single brackets"
    if isinstance(given, list) and all(isinstance(each, dict) for each in given):
        return "tables in double brackets"
    return repr(given)


def _with_edge(document: dict[str, Any], edge: Any, reading: Reading) -> dict[str, Any]:
    """The document with the routes' ``edge`` as it is once ``[edge]`` is beneath it."""
    routes = document.get("route", [])
    if not isinstance(routes, list):
        return document
    beneath = {} if edge is WRONG else written(cast(Edge, edge))
    return {**document, "route": [_over(route, beneath, ("route", n), reading) for n, route in enumerate(routes)]}


def _over(route: Any, beneath: dict[str, Any], path: Path, reading: Reading) -> Any:
    own = route.get("edge") if isinstance(route, dict) else None
    if own is True:
        return {**route, "edge": beneath}
    if not isinstance(own, dict):
        return route
    for name in STORE_KEYS:
        if name in own:
            reading.wrong((*path, "edge", name), "all routes share one store; say it in [edge]")
    return {**route, "edge": {**beneath, **{name: own[name] for name in own if name not in STORE_KEYS}}}


def _names(document: Mapping[str, Any]) -> list[str] | None:
    """The names of all pools; None where that cannot be known, because the tables are no tables or have no name."""
    pools = document.get("pool", [])
    if not isinstance(pools, list) or not all(isinstance(each, dict) and "name" in each for each in pools):
        return None
    return [each["name"] for each in pools if isinstance(each["name"], str)]
