"""What the gateway shows to clients that come by TLS: certificates by server name, read anew when their files change.

Theory. The client says the name it wants in its first message (SNI, RFC 6066 §3), and the certificate is chosen by
that: exactly, else by a wildcard of one label (RFC 6125 §6.4.3), else the first. A set of certificates is made as a
whole and never changed. When the content of a file has changed and come to rest another set is made, and if that works
it is for all handshakes from then on; connections have theirs for good. If it does not work, nothing changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Event, Hub
from tenfold.resilience.config_watch import watch

if TYPE_CHECKING:
    from tenfold.gateway.config import Config
    from tenfold.gateway.config.options import Certificate, Gateway
    from tenfold.gateway.engine.counters import Counters
    from tenfold.gateway.engine.site import Site

_log: Final = logging.getLogger("tenfold.gateway")
_LOOK_AT_FILES: Final = 1.0
"""Seconds between two looks at the files of certificates."""
PROTOCOLS: Final = ["http/1.1"]
VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_SAN: Final = bytes.fromhex("0603551d11")
"""The object identifier of subjectAltName (2.5.29.17), as DER writes it."""


@dataclass(frozen=True, slots=True)
class CertificatesReloaded(Event):
    """Certificates were read anew and are shown from now on. ``names`` are the server names they are for."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CertificatesRejected(Event):
    """Changed files of certificates were wrong, and those that were good go on being shown. ``problem`` says why."""

    problem: str


class Certificates:
    """The certificates of ``options``, ready for handshakes. Reads files. Raises `MisuseError` that says which one is
    wrong and why.
    """

    __slots__ = ("_exact", "_first", "_options", "_wild", "digest")

    def __init__(self, options: Gateway) -> None:
        self._options = options
        self.digest = _digest(options)
        """Of the files as they were read."""
        self._exact: dict[str, ssl.SSLContext] = {}
        self._wild: dict[str, ssl.SSLContext] = {}
        contexts = []
        for number, each in enumerate(options.tls):
            context = _context(each, VERSIONS[options.tls_least])
            contexts.append(context)
            names = each.names or _names(each.certificate)
            if not names and number:
                raise MisuseError(
                    f"gateway.tls: expected names for {each.certificate}, because the certificate has none of its own; "
                    "only the first can do without"
                )
            for name in names:
                low = name.lower()
                if low.startswith("*."):
                    self._wild.setdefault(low[2:], context)
                else:
                    self._exact.setdefault(low, context)
        self._first = contexts[0]
        self._first.sni_callback = self._chosen

    @property
    def context(self) -> ssl.SSLContext:
        """For the server's side of a handshake; it is exchanged for another when the client names one."""
        return self._first

    @property
    def names(self) -> tuple[str, ...]:
        """The server names they are for."""
        return (*self._exact, *(f"*.{name}" for name in self._wild))

    def choose(self, name: str | None) -> ssl.SSLContext:
        """The certificate for a server name."""
        if name is None:
            return self._first
        low = name.lower().rstrip(".")
        return self._exact.get(low) or self._wild.get(low.partition(".")[2]) or self._first

    def _chosen(self, made: Any, name: str | None, _: ssl.SSLContext) -> None:
        made.context = self.choose(name)

    def changed(self) -> str:
        """A digest of the files as they are now."""
        return _digest(self._options)

    def again(self) -> Certificates:
        """The same ones, read anew. Raises `MisuseError`."""
        return Certificates(self._options)

    def __repr__(self) -> str:
        return f"<Certificates {', '.join(self.names) or 'of no name'}>"


class Keyring:
    """The certificates in force; None where clients speak plain HTTP. ``counters`` are told of changes."""

    __slots__ = ("_clock", "_counters", "_hub", "_seen", "certificates", "watched")

    def __init__(
        self, certificates: Certificates | None, counters: Counters, *, clock: Clock = SYSTEM_CLOCK, hub: Hub = EVENTS
    ) -> None:
        self.certificates = certificates
        self.watched = False
        """Somebody looks after their files."""
        self._counters = counters
        self._clock = clock
        self._hub = hub
        self._seen = "" if certificates is None else certificates.digest

    def replace(self, certificates: Certificates | None) -> None:
        """Put others into force, or none."""
        self.certificates = certificates
        self._seen = "" if certificates is None else certificates.digest

    async def watch(self, interval: float) -> None:
        """Read certificates anew whenever their files have changed and come to rest, for ever."""
        await watch(self._look, lambda: self._seen, self.renew, interval, self._clock)

    def _look(self) -> str:
        certificates = self.certificates
        return "" if certificates is None else certificates.changed()

    async def renew(self) -> None:
        """Read them now. What is wrong is told and counted, and changes nothing."""
        before = self.certificates
        if before is None:
            return
        seen = await asyncio.to_thread(before.changed)
        try:
            made = await asyncio.to_thread(before.again)
        except MisuseError as error:
            if self.certificates is before:
                self._seen = seen  # told once; the next change is another try
                self._counters.certificates_rejected += 1
                _log.error("%s; the certificates that were good go on being shown", error)
                self._hub.emit(CertificatesRejected(str(error)))
            return
        if self.certificates is before:
            self.replace(made)
            self._counters.certificates_reloaded += 1
            self._hub.emit(CertificatesReloaded(made.names))


def _names(path: str) -> tuple[str, ...]:
    try:
        return tuple(names_of(path))
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        raise MisuseError(
            f"gateway.tls: expected a certificate that begins with its own part, to see its names, got {path} "
            f"({error}); say names"
        ) from error


def _context(each: Certificate, least: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = least
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(PROTOCOLS)
    load_pair(context, each.certificate, each.key, "gateway.tls")
    return context


def load_pair(context: ssl.SSLContext, certificate: str, key: str, where: str) -> None:
    """Take a certificate and its key from PEM files. Raises `MisuseError`, which ``where`` begins."""

    def no_password() -> str:
        raise MisuseError(f"{where}: expected a private key without a password, got one that asks for it: {key}")

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        told = {
            "KEY_VALUES_MISMATCH": f"the key {key} is not that of the certificate {certificate}",
            "EE_KEY_TOO_SMALL": f"the key of the certificate {certificate} is too short",
        }.get(error.reason or "", f"expected PEM files of a certificate and its key, got {certificate} and {key}")
        raise MisuseError(f"{where}: {told} ({error.reason or error})") from error
    except OSError as error:
        raise MisuseError(
            f"{where}: expected files that can be read, got {certificate} and {key} ({error.strerror})"
        ) from error


def _digest(options: Gateway) -> str:
    found = hashlib.sha256()
    for each in options.tls:
        for path in (each.certificate, each.key):
            try:
                found.update(hashlib.sha256(Path(path).read_bytes()).digest())
            except OSError as error:
                found.update((error.strerror or "?").encode())
    return found.hexdigest()


def names_of(path: str) -> Iterator[str]:
    """The DNS names of the first certificate in a PEM file (subjectAltName; its common name says nothing any more, RFC
    9525 §2).
    """
    text = Path(path).read_text(encoding="latin-1")
    begin, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + 25])
    (whole,) = _values(der)
    (signed, *_) = _values(whole[1])
    for tag, extensions in _values(signed[1]):
        if tag == 0xA3:  # [3], the extensions
            for _, extension in _values(next(_values(extensions))[1]):
                if extension.startswith(_SAN):
                    *_, (_, held) = _values(extension)
                    for kind, name in _values(next(_values(held))[1]):
                        if kind == 0x82:  # dNSName
                            yield name.decode("ascii", "replace")


def _values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents that stand one after another in DER (X.690 §8.1); OpenSSL has taken them as well-formed."""
    at = 0
    while at < len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(der[at : at + count], "big")
            at += count
        yield tag, der[at : at + size]
        at += size


async def certificates_of(config: Config) -> Certificates | None:
    """Those of a configuration, read in a thread; None where it has none."""
    return await asyncio.to_thread(Certificates, config.gateway) if config.gateway.tls else None


def certify(site: Site, certificates: Certificates | None) -> None:
    """Put certificates into force, and look after their files from the first ones on."""
    site.keyring.replace(certificates)
    if certificates is not None and not site.keyring.watched:
        site.keyring.watched = True
        site.tasks.spawn(site.keyring.watch(_LOOK_AT_FILES), name="certificates")
