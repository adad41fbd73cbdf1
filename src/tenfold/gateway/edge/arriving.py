"""The second half of the edge: what it does with what the origin says, and with those who waited for it."""

from __future__ import annotations

from typing import Final

from tenfold.gateway.edge.control import whole
from tenfold.gateway.edge.decide import Action, usable_on_error
from tenfold.gateway.edge.decision import DROPPED, Decision
from tenfold.gateway.edge.filling import Filling
from tenfold.gateway.edge.flight import Flight, Turn
from tenfold.gateway.edge.fresh import terms
from tenfold.gateway.edge.invalidate import invalidated_by
from tenfold.gateway.edge.message import Response
from tenfold.gateway.edge.purging import Purging
from tenfold.gateway.edge.status import Fwd
from tenfold.gateway.edge.stored import Stored, kept, merged
from tenfold.gateway.edge.vary import select

_SUPERSEDES: Final = frozenset({b"no-store", b"private", b"set-cookie", b"vary", b"no-lifetime", b"must-understand"})


class Arriving(Purging):
    """`begin_store`, `revalidated`, `failed`, `cancelled` and `resume`."""

    __slots__ = ()

    def begin_store(self, decision: Decision, response: Response, now: float, wall: float) -> Filling | None:
        """The final head of the origin's response, any but a 304 to our conditions. A filling that takes its body, or
        None: it is not stored (``decision.detail`` says why).

        Unsafe methods invalidate here what they changed.
        """
        request = decision.request
        for url in invalidated_by(request, response):
            self.purge_url(url)
        decision.stores = False
        found = terms(request, response, self.options, wall=wall, delay=now - decision.now)
        flight = self._live(decision)
        if found.refused is not None:
            self._turned_down(decision, flight, found.refused, now)
            self._compare(decision, response, now)
            return None
        names = found.names or ()
        vary = (names, select(names, request.fields, encoding=self.options.normalise_encoding))
        pairs = kept(response.pairs, response.fields.get(b"connection"), cookies=self.options.set_cookie == "store")
        stored = Stored(request.url, vary, response, pairs, found, now=now, wall=wall)
        expected = _length(response)
        largest = self.options.largest
        room = stored.weight + (0 if expected is None else expected + expected // 16 + 1024)
        if (expected or 0) + stored.weight > largest or not self._store.reserve(room):
            self.too_large += 1
            self._turned_down(decision, flight, b"too-large", now)
            return None
        decision.arriving = stored
        decision.stores = True
        if flight is not None and not found.useful_at_once:
            self._no_collapse(flight, now)
            flight = None
        filling = Filling(
            self._store,
            decision,
            stored,
            flight=flight,
            expected=expected,
            largest=largest,
            room=room,
            done=self._filled,
        )
        if flight is not None:
            flight.head(stored, filling.chunks, length=expected, encoding=self.options.normalise_encoding)
        return filling

    def _filled(self, filling: Filling, whole_body: bool) -> Stored | None:
        stored, flight, decision = filling.stored, filling.flight, filling.decision
        if not whole_body:
            decision.stores = False
            if filling.overran:
                self.too_large += 1
                decision.detail = b"too-large"
            if flight is not None and filling.overran:
                self._no_collapse(flight, decision.now)
            elif flight is not None:
                self._cancel(flight)
            return None
        now_kept = self._keep(stored, decision.began)
        if flight is not None:
            flight.finish(stored)
            self._forget(flight)
        return stored if now_kept else None

    def revalidated(self, decision: Decision, response: Response, now: float, wall: float) -> Decision | None:
        """A 304 has come. What to do now: SERVE the stored response, or FORWARD without conditions, where the 304
        speaks of another one. None: the question was the client's own, and the 304 is the answer.
        """
        old = decision.stored
        if old is None or decision.action not in (Action.REVALIDATE, Action.SERVE_STALE_WHILE_REVALIDATE):
            return None
        tag = response.fields.get(b"etag")
        if tag is not None and old.etag is not None and tag.removeprefix(b"W/") != old.etag.removeprefix(b"W/"):
            self._store.drop(old)
            again = self._forward(decision.request, None, decision.fwd or Fwd.STALE, now)
            again.flight = decision.flight
            return again
        self.revalidations += 1
        cookies = self.options.set_cookie == "store"
        # The old Date says nothing of the 304's age: one without a Date is of now (RFC 9110 §6.6.1).
        undated = tuple(pair for pair in old.pairs if pair[0].lower() != b"date")
        pairs = merged(undated, kept(response.pairs, response.fields.get(b"connection"), cookies=cookies))
        about = Response(old.status, (*pairs, *[one for one in response.pairs if one[0].lower() == b"age"]), old.reason)
        found = terms(decision.request, about, self.options, wall=wall, delay=now - decision.now)
        new = Stored(old.url, old.vary, about, pairs, found, now=now, wall=wall)
        new.fill(old.chunks)
        flight = self._live(decision)
        served = Decision(Action.SERVE, decision.request, new, now)
        served.fwd = decision.fwd or Fwd.STALE
        served.fwd_status = 304
        if found.refused is None and new.weight <= self.options.largest:
            served.stores = self._keep(new, decision.began)
        else:
            self._store.drop(old)
            served.detail = found.refused or b"too-large"
        if flight is not None:
            if found.useful_at_once:
                flight.head(new, list(new.chunks), length=None, encoding=self.options.normalise_encoding)
                flight.finish(new)
                self._forget(flight)
            else:
                self._no_collapse(flight, now)
        return served

    def failed(self, decision: Decision, now: float, status: int = 502) -> Decision | None:
        """The origin failed, or could not be reached; ``status`` is what it said, or what will be answered. A SERVE
        of a stale response that may stand in for it, or None.
        """
        flight = self._live(decision)
        if flight is not None:
            flight.fail(status)
            self._forget(flight)
        if decision.action is Action.SERVE_STALE_WHILE_REVALIDATE:
            return None
        return self._instead(decision, now, status)

    def cancelled(self, decision: Decision) -> None:
        """The client of a decision left before a head came, and its request to the origin ends."""
        flight = self._live(decision)
        if flight is not None:
            self._cancel(flight)
        follower = decision.follower
        if follower is not None:
            if follower.turn is Turn.LEAD and not follower.flight.over:
                self._cancel(follower.flight)
            follower.leave()

    def resume(self, decision: Decision, now: float) -> Decision:
        """What a WAIT has come to. Still waiting means that its time is over: it goes on alone."""
        follower = decision.follower
        if follower is None:
            return decision
        turn = follower.turn
        fwd = decision.fwd or Fwd.URI_MISS
        if turn is Turn.SERVE or turn is Turn.STREAM:
            served = Decision(Action.SERVE, decision.request, follower.stored, decision.now)
            served.fwd = fwd
            served.collapsed = True
            if turn is Turn.STREAM:
                follower.begun = True
                served.follower = follower
            else:
                follower.leave()
            return served
        follower.leave()
        if turn is Turn.FAILED or turn is Turn.BROKEN:
            status = follower.flight.failure or 502
            stale = self._instead(decision, now, status)
            if stale is None:
                stale = Decision(Action.FAILED, decision.request, None, now)
                stale.fwd = fwd
                stale.fwd_status = status
            stale.collapsed = True
            return stale
        again = self._forward(decision.request, decision.stored, fwd, now)
        if turn is Turn.LEAD:
            again.flight = follower.flight
            follower.flight.began = again.began
        return again

    # -- inside

    def _instead(self, decision: Decision, now: float, status: int) -> Decision | None:
        """A stored response that may stand in for an error."""
        stored = decision.stored
        if stored is None or not usable_on_error(stored, now):
            return None
        self.errors_hidden += 1
        self.stale += stored.fresh_until <= now
        served = Decision(Action.SERVE, decision.request, stored, decision.now)
        served.fwd = decision.fwd or Fwd.STALE
        served.fwd_status = status
        served.detail = b"stale-if-error"
        return served

    def _live(self, decision: Decision) -> Flight | None:
        flight = decision.flight
        return None if flight is None or flight.over else flight

    def _keep(self, stored: Stored, began: int) -> bool:
        if self._purged.since(began, stored.url, stored.keys):
            return False
        if stored.weight > self.options.largest:
            self.too_large += 1
            return False
        self.stored += 1
        return self._store.add(stored)

    def _turned_down(self, decision: Decision, flight: Flight | None, why: bytes, now: float) -> None:
        self.refused += 1
        decision.detail = why
        if flight is not None:
            self._no_collapse(flight, now)

    def _compare(self, decision: Decision, response: Response, now: float) -> None:
        """What a response that is not stored says about the one that is: it has taken its place, or it differs."""
        old = decision.stored
        if old is None or response.status >= 500:
            return
        if decision.request.method == b"HEAD":
            fields = response.fields
            tag, modified, length = fields.get(b"etag"), fields.get(b"last-modified"), _length(response)
            if response.status == 200 and (
                (tag is not None and tag != old.etag)
                or (modified is not None and modified != old.last_modified)
                or (length is not None and length != old.length)
            ):
                old.expire(now)  # RFC 9111 §4.3.5
        elif decision.detail in _SUPERSEDES and (
            decision.drop or not any(n in decision.request.fields for n in DROPPED)
        ):
            self._store.drop(old)


def _length(response: Response) -> int | None:
    """Content-Length, where it is what ends the body."""
    if b"transfer-encoding" in response.fields:
        return None
    field = response.fields.get(b"content-length")
    return None if field is None else whole(field)
