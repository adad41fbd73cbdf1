"""A route: which requests it is for, and what becomes of them."""

# ruff: noqa: RUF009 - `option` makes a dataclass field, and fields are made once

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from tenfold.gateway.config.compound import Either, Frozen, Many, Named
from tenfold.gateway.config.kinds import Choice, Flag, Text, Whole, part, refused, span, volume
from tenfold.gateway.config.options import HEADER, TOKEN, Edge
from tenfold.gateway.config.picks import SELECTOR
from tenfold.gateway.config.pool import NAME
from tenfold.gateway.config.problems import Wrong
from tenfold.gateway.config.tables import Foreign, Options, Table, option
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.budget import Budget
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.retry import Retry

_FRAMING: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
"""What says how a message is cut, or is for one hop: the gateway's own, RFC 9110 section 7.6.1."""
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_PLACEHOLDER: Final = re.compile(r"\{([^}]*)\}?")


class _ChangeableHeader(Text):
    """A header that a route may change."""

    def value(self, given: Any) -> Any:
        name = super().value(given)
        if name.lower() in _FRAMING:
            raise refused("a header that is not about framing or the connection, which is the gateway's own", given)
        return name


_CHANGED: Final = _ChangeableHeader('the name of a header such as "X-User"', TOKEN)
_VALUE: Final = Text("a header value of printable ASCII", r"[!-~]([ \t!-~]*[!-~])?|")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChanges(Options):
    """What becomes of headers, in this order: removed, set, added. Names are compared without case."""

    remove: tuple[str, ...] = option(Many(_CHANGED, what="a list of headers"), "Headers that are removed.", default=())
    set: Frozen = option(
        Named(_CHANGED, _VALUE), "Headers that get this value instead of what they had.", default=Frozen()
    )
    add: Frozen = option(Named(_CHANGED, _VALUE), "Headers that get a line more.", default=Frozen())

    def _check(self) -> None:
        if not (self.remove or self.set or self.add):
            raise Wrong("", "expected remove, set or add, got none; leave the table out")
        both = {name.lower() for name in self.set} & {name.lower() for name in self.add}
        if both:
            raise Wrong("add", f"{min(both)} is set already; leave one of them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary(Options):
    """A part of a route's requests for another pool. The header wins, then whoever was told apart by `by` keeps to
    their side; a weight that grows only ever brings users to the canary.
    """

    pool: str = option(NAME, "The pool of the canary.")
    weight: float = option(part(), "The share of users, or of requests without one, that get it.", default=0.0)
    header: str | None = option(
        HEADER, "A request header: `always` asks for the canary, `never` for the other.", default=None
    )
    by: str | None = option(
        SELECTOR, "What tells one user from another; not given: chance, and the cookie.", default=None
    )
    cookie: str | None = option(
        Text("the name of a cookie", TOKEN),
        "A cookie that the gateway sets so that users keep to their side.",
        default=None,
    )

    def _check(self) -> None:
        if self.weight == 0 and self.header is None:
            raise Wrong("weight", "nobody would ever get the canary; expected a weight above 0 or a header")
        if self.by is not None and self.cookie is not None:
            raise Wrong("cookie", f"users are told apart by {self.by} already; leave one of them out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect(Options):
    """An answer that sends the client elsewhere."""

    to: str = option(
        Text('a url or path such as "https://{host}{path}"', r"(/|https?://)[!-~]*", label="url"),
        "Where to; `{host}`, `{path}` and `{query}` (with its `?`) are those of the request.",
    )
    status: int = option(
        Whole(300, 399), "301 and 302 let clients change POST to GET, 307 and 308 do not.", default=308
    )

    def _check(self) -> None:
        if self.status not in (301, 302, 303, 307, 308):
            raise Wrong("status", f"expected 301, 302, 303, 307 or 308, got {self.status}")
        for match in _PLACEHOLDER.finditer(self.to):
            if match[0] not in ("{host}", "{path}", "{query}"):
                raise Wrong("to", f"expected {{host}}, {{path}} or {{query}} in braces, got {match[0]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Respond(Options):
    """An answer of the gateway itself."""

    status: int = option(Whole(200, 599), "Its status.", default=200)
    body: str = option(Text("a text", r"(?s:.*)"), "Its body.", default="")
    content_type: str = option(Text("a media type", r"[!-~][ !-~]*"), "Its type.", default="text/plain; charset=utf-8")

    def _check(self) -> None:
        if self.body and self.status in (204, 304):
            raise Wrong("body", f"a {self.status} has no body; leave one of them out")


_NOT_HERE: Final = "is for code; a gateway retries what was not sent and methods that are idempotent"
_HOST: Final = Text(
    'a host such as "shop.example" or "*.shop.example", without a port',
    r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]",
    label="host",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Options):
    """Requests of a host, path, method and headers, and what becomes of them: a pool, a redirect or an answer.

    Of several routes that match, the one that says most wins: an exact host before a wildcard before none, then an
    exact path before the longest prefix, then more headers, then methods before none, then the earlier in the file.
    """

    name: str = option(
        NAME, "How logs, metrics and the admin API call it; not given: `route-1`, `route-2`, …", default=""
    )
    host: tuple[str, ...] = option(
        Many(_HOST, single=True, what="a list of hosts"),
        "Hosts, without port; `*.shop.example` is every name below it. None: all.",
        default=(),
    )
    path: str = option(
        Text('a path such as "/api", without a query', r"/[!-\"$->@-~]*", label="path"),
        "The beginning of the path, by whole segments: `/api` is `/api` and `/api/…`, and not `/apix`.",
        default="/",
    )
    exact: bool = option(Flag(), "Whether `path` is the whole path.", default=False)
    methods: tuple[str, ...] = option(
        Many(Choice(*_METHODS), single=True, what="a list of methods"),
        "Methods; none: all. GET is not HEAD.",
        default=(),
    )
    headers: Frozen = option(
        Named(
            HEADER, Either(Flag(), _VALUE, expected="true (it is there), false (it is not) or its value"), lower=True
        ),
        "Request headers: a value, `true` (it is there) or `false` (it is not).",
        default=Frozen(),
    )
    pool: str | None = option(NAME, "Where the requests go.", default=None)
    redirect: Redirect | None = option(Table(Redirect, main="to"), "Sends the client elsewhere instead.", default=None)
    respond: Respond | None = option(Table(Respond, main="status"), "Answers instead.", default=None)
    canary: Canary | None = option(Table(Canary), "A part of the requests for another pool.", default=None)
    retries: Retry | None = option(
        Foreign(Retry, main="attempts", without=dict.fromkeys(("on", "on_result", "idempotent"), _NOT_HERE),
                nested={"budget": Budget}),
        "Tries again, on another endpoint, what was not sent or is idempotent and got no answer.",
        default=None,
    )  # fmt: skip
    retry_statuses: tuple[int, ...] = option(
        Many(Whole(400, 599), single=True, what="a list of statuses"),
        "Answers that count as failures for `retries`, where the method is idempotent; such as `[502, 503]`. "
        "Their `Retry-After` is waited for.",
        default=(),
    )
    deadline: float | None = option(
        span(),
        "For the answer's head, all tries included; passed on to backends. `Tenfold-Timeout-Ms` of a request makes it "
        "less. Not given: what a trusted peer says there, else none.",
        default=None,
    )
    rate_limit: RateLimit | None = option(
        Foreign(RateLimit, main="rate", flag=False, without={"key": "is for code; say limit_by beside it"}),
        "Most requests a second; more is answered 429.",
        default=None,
        show=False,
    )
    limit_by: str | None = option(
        SELECTOR, "What each `rate_limit` is kept for; not given: the route as a whole.", default=None
    )
    priority: str = option(
        Choice("critical", "normal", "batch", "sheddable"),
        "Who goes first where not all can be served.",
        default="normal",
    )
    adaptive: AdaptiveLimit | None = option(
        Foreign(AdaptiveLimit, main="initial"), "Finds how many requests at once the pool can answer.", default=None
    )
    body_max: int | None = option(
        volume(), "As in `[gateway]`, for this route; 0: no body is taken. Not given: as there.", default=None
    )
    edge: Edge | None = option(
        Table(Edge, flag=True), "The HTTP cache, with what is other than in `[edge]`.", default=None
    )
    request_headers: HeaderChanges | None = option(Table(HeaderChanges), "Changes of what endpoints see.", default=None)
    response_headers: HeaderChanges | None = option(Table(HeaderChanges), "Changes of what clients see.", default=None)
    strip_prefix: bool = option(
        Flag(),
        "Whether endpoints see the path without `path`; `X-Forwarded-Prefix` says what was there.",
        default=False,
    )

    def _check(self) -> None:
        given = [name for name in ("pool", "redirect", "respond") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise Wrong(given[1] if given else "pool", f"expected one of pool, redirect and respond, got {got}")
        if self.pool is None:
            for name in ("canary", "retries", "deadline", "adaptive", "edge", "request_headers", "strip_prefix"):
                if getattr(self, name) not in (None, False):
                    raise Wrong(name, f"means nothing on a route with {given[0]}; leave it out")
        for part_ in self.path.split("/"):
            if part_ in (".", ".."):
                raise Wrong("path", f"expected a path without {part_!r}, which clients resolve themselves")
        if self.strip_prefix and self.path == "/":
            raise Wrong("strip_prefix", 'expected a path longer than "/", because there is nothing to take away')
        if self.retry_statuses and self.retries is None:
            raise Wrong("retry_statuses", "means nothing without retries; say both or neither")
        if self.limit_by is not None and self.rate_limit is None:
            raise Wrong("limit_by", "means nothing without rate_limit; say both or neither")
        if self.canary is not None and self.canary.pool == self.pool:
            raise Wrong("canary.pool", f"expected another pool than the route's own, got {self.pool!r} again")
        if len({name.lower() for name in self.host}) < len(self.host):
            raise Wrong("host", "a host stands here twice; leave one out")
