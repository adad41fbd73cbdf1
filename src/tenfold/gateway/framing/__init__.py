"""HTTP/1.1 without I/O, as a gateway needs it: strict readers for both sides, and the heads that are passed on."""

from tenfold.gateway.framing.body import END, Chunks, End, chunk, last_chunk
from tenfold.gateway.framing.forward import Forwarder, Link
from tenfold.gateway.framing.forwarding import UNIX, Forwarding
from tenfold.gateway.framing.head import CHUNKED, UNTIL_CLOSE, Head, RequestHead, ResponseHead
from tenfold.gateway.framing.limits import Limits, Timeouts
from tenfold.gateway.framing.naming import Identity
from tenfold.gateway.framing.proxy_protocol import Proxied, read_proxy
from tenfold.gateway.framing.refusal import Reason, Refusal
from tenfold.gateway.framing.request import RequestEvent, RequestReader
from tenfold.gateway.framing.response import ResponseEvent, ResponseReader
from tenfold.gateway.framing.start_line import METHODS

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # Options.
    "Forwarding",
    "Limits",
    "Timeouts",
    # Readers and their events.
    "CHUNKED",
    "END",
    "METHODS",
    "UNTIL_CLOSE",
    "End",
    "Head",
    "Reason",
    "Refusal",
    "RequestEvent",
    "RequestHead",
    "RequestReader",
    "ResponseEvent",
    "ResponseHead",
    "ResponseReader",
    # What is passed on.
    "UNIX",
    "Chunks",
    "Forwarder",
    "Identity",
    "Link",
    "chunk",
    "last_chunk",
    # Before HTTP.
    "Proxied",
    "read_proxy",
]
