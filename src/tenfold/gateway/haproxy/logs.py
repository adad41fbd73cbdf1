"""The access log as HAProxy writes it. Pure.

Theory. HAProxy writes its own messages (a proxy stopped, a worker left) to where a frontend's lines go, as warnings at
most. A reader of the access log expects requests and nothing else, so the log takes errors alone, and every request is
made one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenfold.gateway.config import Config
from tenfold.gateway.haproxy.quote import word

_JSON: Final = (
    '{"time":%Ts.%ms,"client":"%[var(txn.client)]","method":"%[capture.req.method,json(utf8s)]",'
    '"target":"%[capture.req.uri,json(utf8s)]","host":"%[capture.req.hdr(0),json(utf8s)]","status":%ST,"bytes":%B,'
    '"ms":%Ta,"route":"%[var(txn.route)]","endpoint":"%[srv_name]","tries":%rc,"request_id":"%ID","fault":"%ts",'
    '"agent":"%[capture.req.hdr(1),json(utf8s)]","referer":"%[capture.req.hdr(2),json(utf8s)]"}'
)
_TEXT: Final = '%[var(txn.client)] - - [%T] %{+Q}r %ST %B "%[capture.req.hdr(2)]" "%[capture.req.hdr(1)]"'


def logging_rules(config: Config) -> Iterator[str]:
    """What the frontend says first, so that refusals have lines too."""
    log = config.gateway.access_log
    assert log is not None  # asked by the caller
    yield "log global"
    for name, size in (("Host", 256), ("User-Agent", 512), ("Referer", 1024)):
        yield f"capture request header {name} len {size}"
    yield f"log-format {word(_JSON if log.format == 'json' else _TEXT)}"
    yield "option log-separate-errors"  # what is no request, and meets no rule
    yield "http-request set-log-level err"
    if log.sample < 1:
        yield f"http-request set-log-level silent if {{ rand(1000000) ge {round(log.sample * 1_000_000)} }}"
        if log.errors:
            yield "http-after-response set-log-level err if { status ge 500 }"
