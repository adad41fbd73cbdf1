"""May a shared cache keep this response, and for how long is it fresh? (RFC 9111 §3 and §4.2.)

Theory. A response is stored where all of this holds (§3): the method was GET; the status is final, no 206 and no 304
(parts are not kept); no ``no-store``, unless ``must-understand`` is there and the status is understood; no ``private``;
the request had no Authorization, or the response says ``public``, ``s-maxage`` or ``must-revalidate`` (§3.5); and it
either names a life time or has a status that may be given one by *heuristics*.

The *life time* (§4.2.1) is ``s-maxage``, or ``max-age``, or Expires minus Date, or a tenth of what lay between
Last-Modified and Date (§4.2.2), in this order. The *age* on arrival (§4.2.3) is the larger of what Date says
(``now - Date``, where clocks may be apart) and what the caches in between say (Age plus the time that the exchange
took). From then on it grows with a monotonic clock, which alone never jumps: the wall clock is asked once, when the
response arrives.

Three deliberate steps aside. Set-Cookie is no obstacle to RFC 9111, but in front of an application it nearly always
means a response for one user, so it is not stored unless an option says so. ``s-maxage`` forbids stale use (§5.2.2.10
gives it the meaning of ``proxy-revalidate``), but where the same field also grants ``stale-while-revalidate`` or
``stale-if-error``, the origin plainly means both, and the grant counts, as in the CDNs. And what could never be used
again, being stale at once, with no validator and no grant, is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenfold.gateway.edge.conditional import ETAG
from tenfold.gateway.edge.control import Control, age_of, of_request, of_response
from tenfold.gateway.edge.dates import read_date
from tenfold.gateway.edge.message import Request, Response
from tenfold.gateway.edge.options import EdgeOptions
from tenfold.gateway.edge.vary import names_of

HEURISTIC: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
UNDERSTOOD: Final = HEURISTIC | {
    302,
    303,
    307,
    400,
    401,
    403,
    406,
    409,
    411,
    413,
    415,
    422,
    429,
    451,
    500,
    502,
    503,
    504,
}
_PARTIAL: Final = frozenset({206, 304, 412, 416})  # they answer a range or a condition, not the URL


class Terms:
    """What was found out about a response. ``refused`` is a token that says why it is not stored, or None."""

    __slots__ = ("age", "control", "date", "lifetime", "names", "refused", "stale_if_error", "stale_while_revalidate")

    def __init__(self, control: Control, date: int | None) -> None:
        self.control = control
        self.date = date
        self.refused: bytes | None = None
        self.lifetime = 0.0
        self.age = 0.0
        self.names: tuple[bytes, ...] | None = ()
        self.stale_while_revalidate = 0.0
        self.stale_if_error = 0.0

    @property
    def strict(self) -> bool:
        """Whether stale use needs a grant in the response itself."""
        said = self.control
        return said.must_revalidate or said.proxy_revalidate or said.no_cache or said.s_maxage is not None

    @property
    def useful_at_once(self) -> bool:
        """Whether it is fresh as it arrives, and may be used without asking."""
        return self.refused is None and not self.control.no_cache and self.lifetime > self.age

    def __repr__(self) -> str:
        state = "stored" if self.refused is None else f"not stored: {self.refused.decode()}"
        return f"<Terms {state}, life {self.lifetime:g} s, age {self.age:g} s>"


def terms(request: Request, response: Response, options: EdgeOptions, *, wall: float, delay: float) -> Terms:
    """Whether to store the response, its life time and its age on arrival.

    ``wall`` is the Unix time at which the head came, ``delay`` the seconds between the request and that.
    """
    fields = response.fields
    control = of_response(fields)
    found = Terms(control, read_date(fields.get(b"date")))
    found.names = names_of(fields.get(b"vary"))
    found.lifetime, heuristic = lifetime(response, control, found.date, options, wall)
    apparent = 0.0 if found.date is None else max(0.0, wall - found.date)
    found.age = max(apparent, age_of(fields) + max(0.0, delay))
    if not (control.must_revalidate or control.proxy_revalidate or control.no_cache):
        usual_swr, usual_sie = (
            (0.0, 0.0) if found.strict else (float(options.stale_while_revalidate), float(options.stale_if_error))
        )
        swr, sie = control.stale_while_revalidate, control.stale_if_error
        found.stale_while_revalidate = usual_swr if swr is None else float(swr)
        found.stale_if_error = usual_sie if sie is None else float(sie)
    found.refused = _refusal(request, response, found, options, heuristic)
    return found


def lifetime(
    response: Response, control: Control, date: int | None, options: EdgeOptions, wall: float
) -> tuple[float, bool]:
    """Seconds for which the response is fresh, and whether that is a guess (or nothing at all)."""
    if control.s_maxage is not None:
        return float(control.s_maxage), False
    if control.max_age is not None:
        return float(control.max_age), False
    sent = wall if date is None else date
    expires = None if control.targeted else response.fields.get(b"expires")
    if expires is not None:
        at = read_date(expires)
        return (0.0 if at is None else max(0.0, at - sent)), False
    modified = read_date(response.fields.get(b"last-modified"))
    if modified is None or not (response.status in HEURISTIC or control.public):
        return 0.0, True
    return min(max(0.0, sent - modified) * float(options.heuristic_share), float(options.heuristic_max)), True


def _refusal(request: Request, response: Response, found: Terms, options: EdgeOptions, heuristic: bool) -> bytes | None:
    control, fields, status = found.control, response.fields, response.status
    if request.method != b"GET":
        return b"method"
    if not 200 <= status <= 599 or status in _PARTIAL:
        return b"status"
    if control.must_understand:
        if status not in UNDERSTOOD:
            return b"must-understand"
    elif control.no_store:
        return b"no-store"
    if of_request(request.fields).no_store:
        return b"request-no-store"
    if control.private:
        return b"private"
    if b"authorization" in request.fields and not shareable(control):
        return b"authorization"
    if b"set-cookie" in fields and options.set_cookie == "refuse":
        return b"set-cookie"
    if found.names is None:
        return b"vary"
    if heuristic and status not in HEURISTIC and not control.public:
        return b"no-lifetime"
    usable = (found.lifetime > 0 and not control.no_cache) or found.stale_while_revalidate or found.stale_if_error
    if not usable and not validators(fields):
        return b"no-lifetime"
    return None


def validators(fields: Mapping[bytes, bytes]) -> bool:
    """Whether the origin can be asked if the response still holds."""
    return ETAG.fullmatch(fields.get(b"etag", b"")) is not None or read_date(fields.get(b"last-modified")) is not None


def shareable(control: Control) -> bool:
    """Whether a response may answer requests of several users who have authenticated (RFC 9111 §3.5)."""
    return control.public or control.must_revalidate or control.s_maxage is not None
