"""A whole configuration, and how it is written again."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from tenfold.gateway.config.options import Admin, Edge, Engine, Gateway
from tenfold.gateway.config.pool import Pool
from tenfold.gateway.config.problems import Problem
from tenfold.gateway.config.rule import Route
from tenfold.gateway.config.tables import keys, of, written
from tenfold.resilience.config_read import without_passwords

STORE_KEYS: Final = ("max_bytes", "name", "invalidate_from", "cache")
"""What the edge has one of, so that no route can say otherwise."""
_HIDDEN: Final = "…"
_SECRETS: Final = ("token", "secret")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_ESCAPES: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that a file says. Equal to another if both say the same; ``warnings`` are left out of that.

    ``edge`` is what `[edge]` says; a route's own ``edge`` has all its values, merged with those.
    """

    gateway: Gateway
    pools: tuple[Pool, ...]
    routes: tuple[Route, ...]
    admin: Admin | None = None
    edge: Edge = field(default_factory=Edge)
    engine: Engine = field(default_factory=Engine)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def pool(self, name: str) -> Pool:
        """The pool of that name. Raises `KeyError` for another."""
        return next((each for each in self.pools if each.name == name), None) or _unknown(name)

    def document(self, *, secrets: bool = False) -> dict[str, Any]:
        """The tables of a file that says this, without what has its default; ready for JSON.

        Secrets are ``"…"`` unless asked for, and urls lose their passwords.
        """
        found: dict[str, Any] = {"gateway": written(self.gateway)}
        if self.admin is not None:
            found["admin"] = written(self.admin)
        rest = {"edge": written(self.edge), "engine": written(self.engine)}
        found |= {name: table for name, table in rest.items() if table}
        found["pool"] = [written(pool) for pool in self.pools]
        found["route"] = [self._route(route) for route in self.routes]
        if not secrets:
            found = _hidden(found)
        return found

    def _route(self, route: Route) -> dict[str, Any]:
        table = written(route)
        if route.edge is not None:
            table["edge"] = {
                name: of(each).kind.write(getattr(route.edge, name))
                for name, each in keys(Edge)
                if name not in STORE_KEYS and getattr(route.edge, name) != getattr(self.edge, name)
            } or True
        return table

    def __repr__(self) -> str:
        listen = ", ".join(map(str, self.gateway.listen))
        return f"<Config {self.engine.name} on {listen}; pools={len(self.pools)} routes={len(self.routes)}>"


def _unknown(name: str) -> Any:
    raise KeyError(name)


def _hidden(value: Any, name: str = "") -> Any:
    if name in _SECRETS:
        return [_HIDDEN] * len(value) if isinstance(value, list) else _HIDDEN
    if isinstance(value, dict):
        return {key: _hidden(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each) for each in value]
    return without_passwords(value) if isinstance(value, str) else value


def write_config(config: Config, *, secrets: bool = False) -> str:
    """The text of a TOML file that says this. Without ``secrets`` it is for reading and not for running."""
    lines: list[str] = []
    for name, value in config.document(secrets=secrets).items():
        for table in value if isinstance(value, list) else [value]:
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            lines += [f"{_key(key)} = {_value(each)}" for key, each in table.items()]
            lines.append("")
    return "\n".join(lines)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value.replace("${", "$${"))
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value)  # a number; Python's are TOML's


def _text(text: str) -> str:
    return '"' + "".join(map(_character, text)) + '"'


def _character(each: str) -> str:
    if each in _ESCAPES:
        return _ESCAPES[each]
    return each if each >= " " and each != "\x7f" else f"\\u{ord(each):04x}"
