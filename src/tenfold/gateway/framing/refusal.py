"""Why a message is refused: one named value for each reason, which answers, logs, metrics and retries share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Reason(Enum):
    """One way in which bytes are not a message that can be passed on.

    ``status`` is what a client gets whose request it is; a response that is refused is a 502, whatever the reason.
    ``sentence`` is for a person, ``token`` for logs and the label of a metric.
    """

    # The start line.
    EMPTY_LINE = (400, "the request begins with more than one empty line")
    REQUEST_LINE = (400, "the request line is not a method, a target and a version with one space between them")
    STATUS_LINE = (502, "the status line is not a version, a status of three digits and a phrase")
    LINE_TOO_LONG = (414, "the start line is longer than the limit")
    HTTP_0_9 = (400, "the request line has no version, as HTTP/0.9 had it")
    HTTP_2 = (505, "the client speaks HTTP/2 where HTTP/1.1 is spoken")
    VERSION = (505, "the version is neither HTTP/1.1 nor HTTP/1.0")
    METHOD_UNKNOWN = (501, "the method is none of those that are passed on")
    METHOD_REFUSED = (405, "the method (CONNECT or TRACE) is refused by a gateway")
    TARGET = (400, "the target is not a path, an http URL, or * with OPTIONS, or holds what a target may not hold")
    # The fields.
    HEAD_TOO_LARGE = (431, "the head is larger than the limit")
    TOO_MANY_FIELDS = (431, "the head has more fields than the limit")
    BARE_CR = (400, "a CR stands without its LF")
    BARE_LF = (400, "a LF stands without its CR")
    CONTROL = (400, "the head holds a NUL or another control character")
    FOLDED = (400, "a field goes on in a second line (obs-fold)")
    SPACE_BEFORE_COLON = (400, "white space stands between a field's name and the colon")
    NO_COLON = (400, "a line of the head has no colon")
    FIELD_NAME = (400, "a field's name is empty or holds a character that names do not have")
    FIELD_LOOKALIKE = (400, "a field's name differs from one that frames or routes by an underscore for a hyphen")
    HOST_MISSING = (400, "there is no Host")
    HOST_SEVERAL = (400, "there is more than one Host")
    HOST_BAD = (400, "the Host is no name or address with an optional port")
    HOST_MISMATCH = (400, "the target names another host than Host does")
    EXPECTATION = (417, "an expectation other than 100-continue")
    CONNECTION_NAMES = (400, "Connection is no list of names, or names a field that frames or routes the message")
    # The framing.
    LENGTH_BAD = (400, "the Content-Length is not a plain decimal number")
    LENGTH_SEVERAL = (400, "there is more than one Content-Length")
    LENGTH_AND_CODING = (400, "there are both a Content-Length and a Transfer-Encoding")
    CODING_UNKNOWN = (501, "a Transfer-Encoding other than exactly chunked")
    CODING_SEVERAL = (400, "there is more than one Transfer-Encoding")
    CODING_IN_1_0 = (400, "a Transfer-Encoding in HTTP/1.0")
    GATEKEEPER = (400, "the second parser (llhttp) refuses the head")
    # The body.
    BODY_TOO_LARGE = (413, "the body is larger than the limit")
    CHUNK_SIZE = (400, "a chunk's size is no plain hexadecimal number, or too large a one")
    CHUNK_EXTENSION = (400, "a chunk's extension is malformed")
    CHUNK_EXTENSION_TOO_LONG = (400, "a chunk's extensions are longer than the limit")
    CHUNK_END = (400, "a chunk is not followed by CR LF")
    TRAILER = (400, "a trailer is malformed")
    TRAILER_FORBIDDEN = (400, "a trailer frames, routes or authorises, which only a head may do")
    TRAILER_TOO_LARGE = (431, "the trailers are larger than the limit")
    # What only a peer that answers can do.
    STATUS = (502, "the status is not between 100 and 599")
    INTERIM_FLOOD = (502, "more interim responses (1xx) than the limit")
    UPGRADE_UNASKED = (502, "the protocol is switched (101) to one that was not asked for")
    UNSOLICITED = (502, "bytes came that no request had asked for")
    # The end came too early.
    PREMATURE_END = (400, "the connection ended within the message")
    # PROXY protocol.
    PROXY_HEADER = (400, "the PROXY protocol header is missing or malformed")
    PROXY_TOO_LONG = (400, "the PROXY protocol header is longer than the limit")

    def __init__(self, status: int, sentence: str) -> None:
        self.status: Final = status
        self.sentence: Final = sentence

    @property
    def token(self) -> str:
        """For example ``"length_and_coding"``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last event of a reader whose peer sent what cannot be passed on: answer ``status`` and close."""

    status: int
    reason: Reason

    @property
    def token(self) -> str:
        """The reason for logs and metrics, for example ``"bare_lf"``."""
        return self.reason.token

    @property
    def sentence(self) -> str:
        """The reason for a person."""
        return self.reason.sentence

    def __repr__(self) -> str:
        return f"<Refusal {self.status} {self.token}>"


class Refused(Exception):
    """How the parsers of this package tell the reader that called them."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Final = reason
        super().__init__(reason.sentence)
