"""TLS to the endpoints of a pool: whom they must be, what is shown to them, and what is said when it fails.

Theory. An endpoint's certificate is checked against authorities and against the name it was asked for (RFC 9525), here
as in a browser. A handshake that fails has carried nothing of the request, so it is a connection that did not come
about, and the request may go to another endpoint. Which check it failed is the first that a person asks, and says
nothing an attacker does not know: so the answer tells it.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError
from tenfold.balance.checks import Check, HttpCheck, TcpCheck
from tenfold.gateway.engine.certificates import PROTOCOLS, load_pair
from tenfold.gateway.engine.problem import Fault, fault

if TYPE_CHECKING:
    from tenfold.gateway.config.pool import UpstreamTls

_WHICH: Final = {
    9: ("tls_certificate_not_yet_valid", "is not valid yet"),
    10: ("tls_certificate_expired", "has expired"),
    18: ("tls_self_signed", "is signed by itself and by no authority that is trusted"),
    19: ("tls_unknown_authority", "is of an authority that is not trusted"),
    20: ("tls_unknown_authority", "is of an authority that is not trusted"),
    21: ("tls_unknown_authority", "is of an authority that is not trusted"),
    62: ("tls_wrong_name", "is for another name than the one it was asked for"),
    64: ("tls_wrong_name", "is for another address than the one it was asked for"),
}
"""By OpenSSL's X509_V_ERR numbers."""


@functools.cache
def system_context() -> ssl.SSLContext:
    """For pools that say nothing of TLS: the system's authorities, read once."""
    context = ssl.create_default_context()
    return _ours(context)


def _ours(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(PROTOCOLS)
    return context


def context_of(options: UpstreamTls, where: str) -> ssl.SSLContext:
    """What ``options`` ask for. Reads files. Raises `MisuseError`, which ``where`` begins."""
    try:
        context = _ours(ssl.create_default_context(cafile=options.ca))
    except ssl.SSLError as error:
        raise MisuseError(
            f"{where}: expected a PEM file of authorities, got {options.ca} ({error.reason or error})"
        ) from error
    except OSError as error:
        raise MisuseError(f"{where}: expected a file that can be read, got {options.ca} ({error.strerror})") from error
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.certificate is not None and options.key is not None:
        load_pair(context, options.certificate, options.key, where)
    return context


def checked(check: Check | None, context: ssl.SSLContext | None, options: UpstreamTls | None) -> Check | None:
    """The pool's check, which asks endpoints of ``https`` as requests do."""
    if context is None or options is None:
        return check
    if isinstance(check, HttpCheck):
        return replace(check, tls=context, host=check.host or options.name or "")
    if isinstance(check, TcpCheck):
        if options.name is not None and options.verify:
            # A check by TCP has no name of its own to ask for; that the chain is good is what it can say.
            context = context_of(replace(options, name=None), "pool.tls")
            context.check_hostname = False
        return replace(check, tls=context)
    return check


def fault_of_handshake(error: BaseException) -> Fault:
    """What a handshake that failed is answered with."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason, words = _WHICH.get(error.verify_code, ("tls_certificate", f"was refused: {error.verify_message}"))
        return fault(reason, f"the endpoint's certificate {words}")
    told: Any = getattr(error, "reason", None)
    more = f" ({told.lower().replace('_', ' ')})" if isinstance(told, str) else ""
    if told in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        more = " (what it speaks is no TLS)"
    return fault("tls_handshake", f"the TLS handshake with the endpoint failed{more}")
