"""Random histories of requests and responses: the edge decides as a naive cache that is written after RFC 9111's prose.

The naive cache keeps every response in a list and computes everything anew, from the fields, at each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.gateway.edge import Action, Edge, Request, Response, fold

WALL, START = 1_800_000_000, 1_000
HARMLESS = (b"request-no-store", b"authorization", b"status")  # reasons that say nothing about what is kept


def control(text: str | None) -> dict[str, int | None]:
    said: dict[str, int | None] = {}
    for part in (text or "").split(","):
        name, _, value = part.strip().partition("=")
        if name:
            said.setdefault(name, int(value) if value else None)
    return said


@dataclass
class Kept:
    """A response as it came, and when."""

    fields: dict[str, str]
    status: int
    names: tuple[str, ...]
    values: tuple[str | None, ...]
    arrived: int
    delay: int

    @property
    def said(self) -> dict[str, int | None]:
        return control(self.fields.get("cache-control"))

    def date(self, name: str) -> int:
        return int(parsedate_to_datetime(self.fields[name]).timestamp())

    def life(self) -> float:
        said = self.said
        for name in ("s-maxage", "max-age"):
            if name in said:
                return said[name] or 0
        if "expires" in self.fields:
            return max(0, self.date("expires") - self.date("date"))
        if "last-modified" in self.fields and (self.status in (200, 404) or "public" in said):
            return min(max(0, self.date("date") - self.date("last-modified")) * 0.1, 86_400)
        return 0

    def age(self, now: int) -> float:
        apparent = max(0, WALL + self.arrived - START - self.date("date"))
        return max(apparent, int(self.fields.get("age", "0")) + self.delay) + now - self.arrived

    @property
    def validator(self) -> bool:
        return "etag" in self.fields or "last-modified" in self.fields

    def grant(self, name: str) -> int:
        said = self.said
        return 0 if {"must-revalidate", "no-cache"} & said.keys() else said.get(name) or 0

    def storable(self, asked: dict[str, str], method: str) -> bool:
        said = self.said
        if method != "GET" or "no-store" in said or "private" in said or "set-cookie" in self.fields:
            return False
        if "no-store" in control(asked.get("cache-control")) or "*" in self.names:
            return False
        if "authorization" in asked and not {"public", "s-maxage", "must-revalidate"} & said.keys():
            return False
        explicit = {"s-maxage", "max-age"} & said.keys() or "expires" in self.fields
        if not explicit and self.status not in (200, 404) and "public" not in said:
            return False
        unasked = self.life() > 0 and "no-cache" not in said
        return bool(unasked or self.validator or self.grant("stale-while-revalidate") or self.grant("stale-if-error"))


@dataclass
class Naive:
    """Keeps everything, in the order in which it came."""

    kept: list[Kept] = field(default_factory=list)

    def select(self, asked: dict[str, str], now: int) -> Kept | None:
        matching = [one for one in self.kept if tuple(asked.get(name) for name in one.names) == one.values]
        return min(matching, key=lambda one: one.age(now)) if matching else None

    def decide(self, method: str, asked: dict[str, str], now: int) -> tuple[str, Kept | None]:
        if method not in ("GET", "HEAD"):
            return "method", None
        one = self.select(asked, now)
        wants = control(asked.get("cache-control"))
        if "cache-control" not in asked and asked.get("pragma") == "no-cache":
            wants = {"no-cache": None}
        refuse = "504" if "only-if-cached" in wants else ""
        if one is None:
            return refuse or ("vary-miss" if self.kept else "uri-miss"), None
        said = one.said
        if "authorization" in asked and not {"public", "s-maxage", "must-revalidate"} & said.keys():
            return refuse or "bypass", None
        age, left = one.age(now), one.life() - one.age(now)
        if "no-cache" in wants or ("max-age" in wants and (wants["max-age"] == 0 or age > (wants["max-age"] or 0))):
            return refuse or "request", one
        if "no-cache" in said:
            return refuse or "stale", one
        if "min-fresh" in wants and left < (wants["min-fresh"] or 0):
            return refuse or ("request" if left > 0 else "stale"), one
        if left > 0:
            return "hit", one
        strict = {"must-revalidate", "s-maxage"} & said.keys()
        if "max-stale" in wants and not strict and (wants["max-stale"] is None or -left <= wants["max-stale"]):
            return "hit", one
        if -left < one.grant("stale-while-revalidate"):
            return "swr", one
        return refuse or "stale", one

    def keep(self, new: Kept) -> None:
        self.kept = [one for one in self.kept if (one.names, one.values) != (new.names, new.values)]
        self.kept.append(new)


times = st.sampled_from([0, 1, 5, 10, 30, 60])
asked_control = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from(["no-cache", "no-store", "only-if-cached", "max-stale", "max-age=0"]),
    st.builds("{}={}".format, st.sampled_from(["max-age", "min-fresh", "max-stale"]), times),
)
said_control = st.lists(
    st.one_of(
        st.sampled_from(["public", "private", "no-store", "no-cache", "must-revalidate"]),
        st.builds(
            "{}={}".format,
            st.sampled_from(["max-age", "max-age", "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"]),
            times,
        ),
    ),
    max_size=3,
).map(", ".join)


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    asked: dict[str, str] = {"host": "shop"}
    if (said := draw(asked_control)) is not None:
        asked["cache-control"] = said
    if draw(st.integers(0, 9)) == 0:
        asked["pragma"] = "no-cache"
    if draw(st.integers(0, 5)) == 0:
        asked["authorization"] = "x"
    for name in ("a", "b"):
        if (value := draw(st.sampled_from([None, "1", "2"]))) is not None:
            asked[name] = value
    fields: dict[str, Any] = {"cache-control": draw(said_control), "back": draw(st.sampled_from([0, 0, 7, -20]))}
    for name, values in (("age", ["0", "9"]), ("etag", ['"v"']), ("set-cookie", ["c"]), ("vary", ["a", "a, b", "*"])):
        if draw(st.integers(0, 8 if name == "set-cookie" else 2)) == 0:
            fields[name] = draw(st.sampled_from(values))
    for name, values in (("expires", [-10, 10, 40]), ("last-modified", [-100, -400, 50])):
        if draw(st.integers(0, 3)) == 0:
            fields[name] = draw(st.sampled_from(values))
    return {
        "pass": draw(st.sampled_from([0, 1, 4, 10, 25, 60])),
        "delay": draw(st.sampled_from([0, 0, 3])),
        "method": draw(st.sampled_from(["GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "POST"])),
        "asked": asked,
        "fields": fields,
        "status": draw(st.sampled_from([200, 200, 200, 404, 302, 500])),
        "same": draw(st.booleans()),
        "failed": draw(st.integers(0, 7)) == 0,
    }


def encode(fields: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in fields.items()]


def outcome(edge: Edge, request: Request, now: int) -> tuple[Any, str]:
    decision = edge.lookup(request, now)
    if decision.action is Action.ONLY_IF_CACHED_504:
        return decision, "504"
    if decision.action is Action.SERVE_STALE_WHILE_REVALIDATE or decision.detail == b"stale-while-revalidate":
        return decision, "swr"
    if decision.action is Action.SERVE:
        return decision, "hit"
    assert decision.fwd is not None
    return decision, decision.fwd.value.decode()


@settings(max_examples=400, deadline=None)
@given(st.lists(steps(), min_size=2, max_size=12))
def test_the_edge_decides_as_the_naive_cache(history: list[dict[str, Any]]) -> None:
    edge, naive, now = Edge(), Naive(), START
    for step in history:
        now += step["pass"]
        method, asked = step["method"], step["asked"]
        decision, got = outcome(edge, Request(method.encode(), b"http://shop/", fold(encode(asked))), now)
        expected, selected = naive.decide(method, asked, now)
        assert got == expected, (step, decision)
        if got in ("hit", "swr"):
            assert decision.stored is not None
            assert selected is not None
            answer = edge.answer(decision, now)
            assert answer is not None
            assert b"\r\nAge: %d\r\n" % selected.age(now) in answer.head
        if decision.action in (Action.SERVE, Action.ONLY_IF_CACHED_504):
            continue
        then, fields = now + step["delay"], dict(step["fields"])
        sent = WALL + then - START - fields.pop("back")
        for name in ("expires", "last-modified"):
            if name in fields:
                fields[name] = formatdate(sent + fields[name], usegmt=True)
        fields = {"date": formatdate(sent, usegmt=True), **fields}
        now = then
        if step["failed"]:
            instead = edge.failed(decision, now, 503)
            usable = selected is not None and "no-cache" not in selected.said and got != "swr" and method != "POST"
            allowed = selected is not None and (
                selected.age(now) < selected.life() + selected.grant("stale-if-error")
                or selected.age(now) < selected.life()
            )
            assert (instead is not None) == (usable and allowed)
            continue
        if decision.conditions and step["same"]:
            assert selected is not None
            merged = {**selected.fields, **{name: value for name, value in fields.items() if name != "set-cookie"}}
            merged.pop("age", None)
            if "age" in fields:
                merged["age"] = fields["age"]
            tag = fields.get("etag")
            if tag is not None and "etag" not in selected.fields:
                continue  # an origin that begins to send tags in a 304: nothing to compare
            response = Response(304, encode(fields))
            served = edge.revalidated(decision, response, now, WALL + now - START)
            assert served is not None
            assert served.action is Action.SERVE
            new = Kept(merged, selected.status, selected.names, selected.values, now, step["delay"])
            naive.kept.remove(selected)
            if new.storable(asked, method) and "*" not in merged.get("vary", ""):
                naive.kept.append(new)
            continue
        filling = edge.begin_store(decision, Response(step["status"], encode(fields)), now, WALL + now - START)
        if method == "POST":
            assert filling is None
            if step["status"] < 400:
                naive.kept.clear()
            continue
        if filling is not None:
            filling.write(b"x")
            filling.finish()
        names = tuple(sorted(name.strip() for name in fields.get("vary", "").split(",") if name))
        new = Kept(fields, step["status"], names, tuple(asked.get(name) for name in names), now, step["delay"])
        assert (filling is not None) == new.storable(asked, method), (step, decision.detail)
        if filling is not None:
            naive.keep(new)
        elif method == "HEAD" and selected is not None and step["status"] == 200:
            differs = any(
                name in fields and fields[name] != selected.fields.get(name) for name in ("etag", "last-modified")
            )
            if differs:
                return  # it counts as stale from here: the naive cache has no such notion
        elif method == "GET" and selected is not None and step["status"] < 500 and decision.detail not in HARMLESS:
            naive.kept.remove(selected)
