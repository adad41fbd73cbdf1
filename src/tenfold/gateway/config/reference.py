"""The reference of the configuration, written from the option classes: ``docs/reference/gateway.md``.

``python -m tenfold.gateway.config.reference > docs/reference/gateway.md`` writes it; a test compares.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from typing import Any, Final, get_type_hints

from tenfold._core.units import format_duration, format_size
from tenfold.balance.checks import Check, HttpCheck, TcpCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.balance.outlier import OutlierEjection
from tenfold.balance.slow_start import SlowStart
from tenfold.gateway.config.compound import Many
from tenfold.gateway.config.engines import engines_table
from tenfold.gateway.config.kinds import Kind, Unit
from tenfold.gateway.config.options import AccessLog, Admin, Certificate, Edge, Engine, Gateway
from tenfold.gateway.config.picks import PICKS
from tenfold.gateway.config.pool import Pool, UpstreamTls
from tenfold.gateway.config.rule import Canary, HeaderChanges, Redirect, Respond, Route
from tenfold.gateway.config.sources import CheckKind, Source
from tenfold.gateway.config.tables import Foreign, Options, keys, of
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget
from tenfold.resilience.config_read import _named
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

TABLES: Final[tuple[tuple[str, type[Options]], ...]] = (
    ("[gateway]", Gateway),
    ("[[gateway.tls]]", Certificate),
    ("gateway.access_log", AccessLog),
    ("[admin]", Admin),
    ("[edge], route.edge", Edge),
    ("[engine]", Engine),
    ("[[pool]]", Pool),
    ("pool.discovery", Source),
    ("pool.tls", UpstreamTls),
    ("[[route]]", Route),
    ("route.canary", Canary),
    ("route.redirect", Redirect),
    ("route.respond", Respond),
    ("route.request_headers, route.response_headers", HeaderChanges),
)
"""Our tables, with where they stand."""


def _foreign(table: type[Options], name: str) -> Foreign:
    kind = of(next(each for key, each in keys(table) if key == name)).kind
    assert isinstance(kind, Foreign)
    return kind


FOREIGN: Final[tuple[tuple[str, type, Foreign], ...]] = (
    ("pool.endpoints", Endpoint, Foreign(Endpoint)),
    ("pool.check", HttpCheck, CheckKind.http),
    ("pool.check with tcp = true", TcpCheck, CheckKind.tcp),
    ("pool.ejection", OutlierEjection, _foreign(Pool, "ejection")),
    ("pool.slow_start", SlowStart, _foreign(Pool, "slow_start")),
    ("pool.breaker", Breaker, _foreign(Pool, "breaker")),
    ("route.retries", Retry, _foreign(Route, "retries")),
    ("route.retries.budget", Budget, Foreign(Budget)),
    ("route.rate_limit", RateLimit, _foreign(Route, "rate_limit")),
    ("route.adaptive", AdaptiveLimit, _foreign(Route, "adaptive")),
)
"""Tables of other packages, with where they stand."""

_HEAD: Final = """# The configuration of a gateway

Written from the option classes by `python -m tenfold.gateway.config.reference`; a test keeps it so.
`tenfold gateway check FILE` judges a file: every problem with its line, and exit code 2; or a summary, and exit code 0.

A duration is a string such as `"250ms"`, `"30s"` or `"1h30m"`, or a number of seconds; a size is `"64MB"` or
`"1.5GiB"`, or a number of bytes; a share is `"5%"` or `0.05`. Any string may hold `${NAME}` or `${NAME:-default}` from
the environment, and one that is nothing else may stand for a number or a flag; `$${` is `${` itself. What comes from
the environment stands in no message.

```toml
[gateway]
listen = "127.0.0.1:8080"

[[pool]]
name = "app"
endpoints = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9002", weight = 2 }]
check = "/health"

[[route]]
path = "/"
pool = "app"
edge = true
```
"""


def reference() -> str:
    """The whole page."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield _HEAD
    for where, cls in TABLES:
        yield from _section(where, cls)
        yield "| key | what it may be | default | meaning |"
        yield "|---|---|---|---|"
        for name, each in keys(cls):
            key = of(each)
            text = key.text + (" A change needs a restart." if key.restart else "")
            yield f"| `{name}` | {_cell(key.kind.label)} | {_cell(_default(each, key.kind))} | {_cell(text)} |"
        yield ""
    yield "## Picks\n"
    yield "`pick` is a name, or a table of `name` and parameters. `key` says what tells one user from another.\n"
    yield "`sticky` sets a cookie called `cookie`, or `tenfold_` and the pool's name; endpoints do not see it.\n"
    yield "| name | parameters |"
    yield "|---|---|"
    for pick, (_, kinds) in PICKS.items():
        yield f"| `{pick}` | {_cell(', '.join(f'`{name}` ({kind.label})' for name, kind in kinds.items()))} |"
    yield ""
    for where, other, kind in FOREIGN:
        yield from _section(where, other)
        if issubclass(other, Check) and other is not Check:
            yield f"{_prose(Check)}\n"
        yield "| key | what it may be | default |"
        yield "|---|---|---|"
        for name, each in kind.known.items():
            hint = get_type_hints(other)[name]
            what = "table" if name in kind.nested or name == "metadata" else _named(hint)
            if name in kind.convert:
                what = 'a range such as "200-399" or a list'
            yield f"| `{name}` | {what} | {_cell(_plain(each, kind))} |"
        yield ""
    yield "## Which engine does what\n"
    yield "A `no` is refused by `tenfold gateway check`, a `differs` is a warning.\n"
    yield engines_table()


def _section(where: str, cls: type) -> Iterator[str]:
    yield f"## {cls.__name__}\n"
    yield f"`{where}`. {_prose(cls)}\n"


def _prose(cls: type) -> str:
    """The class's docstring as Markdown."""
    lines = (cls.__doc__ or "").strip().splitlines()
    text = "\n".join(line.strip() for line in lines)
    text = re.sub(r"\n*Raises `MisuseError`[^\n]*(\n[^\n]+)*", "", text)
    return text.replace("``", "`").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(each: dataclasses.Field[Any], kind: Kind) -> str:
    if each.default is dataclasses.MISSING:
        return "must be given"
    value = each.default
    if isinstance(kind, Unit):
        if value is None:
            return '"off"' if kind.off else "none"
        if kind.label.startswith("duration"):
            return format_duration(value)
        if kind.label.startswith("size"):
            return f"{value // 1024} KiB" if value < 1024 * 1024 else f"{value // 1024**2} MiB"
        return f"{value:g}"
    if value is None or value == "" or (isinstance(kind, Many) and not value):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,}"
    return f'"{value}"' if str(value) != "{}" else "none"


def _plain(each: dataclasses.Field[Any], kind: Foreign) -> str:
    if each.default is dataclasses.MISSING:
        return "none" if each.default_factory is not dataclasses.MISSING else "must be given"
    if each.name in kind.back:
        return f'"{kind.back[each.name](each.default)}"'
    value = each.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    hint = str(each.type)
    if "Duration" in hint and isinstance(value, int | float):
        return format_duration(value)
    if "Size" in hint and isinstance(value, int):
        return format_size(value)
    return f'"{value}"' if isinstance(value, str) else f"{value:,}"


if __name__ == "__main__":
    sys.stdout.write(reference())
