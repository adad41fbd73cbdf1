"""A set that Kubernetes holds: the pods behind a service, listed once and watched from there.

Theory. The API gives a list at a *resource version* and, from that version on, a stream of changes, a line of JSON
each ("list and watch", Kubernetes API concepts). Four things make that hold. A watch ends, by the time-out that was
asked for or by a server that restarts, and goes on from the last version seen; nothing is lost. *410 Gone*, as a
status or within the stream, says that the version is too old to go on from: list again. *Bookmarks* carry nothing
but a newer version, so that a quiet service does not meet 410 each time. And a connection whose other end vanished
stays silent for ever: nothing heard for longer than the server was asked to keep the watch, and it is given up.

Failures are answered by trying again after a pause that grows; the last set stays in force meanwhile. The token of the
service account is read at every request, because the kubelet replaces it hourly. A plain HTTPS client does: of the
whole API this asks two questions, for which the official client would be a large dependency.
"""

from __future__ import annotations

import asyncio
import os
import random as _random
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError, TenfoldError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.units import Duration
from tenfold.balance.discovery.base import Discovery, LookFailed, positive
from tenfold.balance.discovery.slices import Family, Slice, SliceList, Slices
from tenfold.balance.endpoint import Endpoint

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response

ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_PAGE: Final = 500
_PAGES: Final = 100
_LINE: Final = 4 * 1024 * 1024
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


class _Change(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Gone(TenfoldError):
    """The version is too old to go on from."""


class FromKubernetes(Discovery):
    """The pods behind a service, by its EndpointSlices: ``FromKubernetes("checkout", port="http")``.

    ``port`` is the name or number of the service's port as the slices have it (default: the only one), ``scheme``
    (``"http"``) begins the urls, ``family`` (``"IPv4"``) says which addresses. A pod's name is its id, its zone the
    endpoint's, its node is in the metadata as ``"node"``. A service scaled to nothing is an empty set.

    Within a cluster the rest is known: ``api`` (from the environment), and ``namespace``, ``token`` and ``ca`` (paths
    of the service account's files; the account needs ``list`` and ``watch`` of ``endpointslices``). Elsewhere give
    ``api`` and ``namespace``; ``token`` and ``ca`` may be None (``kubectl proxy``, the system's authorities). A watch
    is renewed after ``watch`` (2 min), a request may take ``timeout`` (10 s).

    Needs httpx2. Raises `MisuseError` without it and for what makes no sense.
    """

    def __init__(
        self,
        service: str,
        *,
        namespace: str | None = None,
        port: str | int | None = None,
        scheme: str = "http",
        family: Family = "IPv4",
        api: str | None = None,
        token: str | os.PathLike[str] | None = f"{ACCOUNT}/token",
        ca: str | os.PathLike[str] | None = f"{ACCOUNT}/ca.crt",
        watch: Duration = 120.0,
        timeout: Duration = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = _random.random,
        events: Hub = EVENTS,
    ) -> None:
        namespace = _own_namespace() if namespace is None else namespace
        super().__init__(f"kubernetes {namespace}/{service}", clock=clock, random=random, events=events)
        for what, value in (("service", service), ("namespace", namespace)):
            if _NAME.fullmatch(value) is None:
                raise MisuseError(f'kubernetes {what}: expected a name such as "checkout", got {value!r}')
        if family not in ("IPv4", "IPv6"):
            raise MisuseError(f'kubernetes family: expected "IPv4" or "IPv6", got {family!r}')
        self._api: Final = _api(api)
        self._path: Final = f"{self._api}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._selector: Final = f"kubernetes.io/service-name={service}"
        self._token: Final = None if token is None else Path(token)
        self._ca: Final = None if ca is None else Path(ca)
        self._watch_for = positive(watch, "kubernetes watch")
        self._timeout = positive(timeout, "kubernetes timeout")
        self._slices: Final = Slices(self.name, port=port, scheme=scheme, family=family)
        self._version = ""
        self.lists = self.watches = 0
        """How often all slices were listed, and how often a watch was begun."""
        try:
            import httpx2  # noqa: F401 - to be refused here and not in a task
        except ImportError:
            raise MisuseError('kubernetes: needs httpx2; install it with `pip install "tenfold[kubernetes]"`') from None

    async def changes(self) -> AsyncGenerator[Sequence[Endpoint], None]:
        """See `Discovery.changes`. Never ends by itself."""
        import httpx2

        self._version = ""
        given: Sequence[Endpoint] | None = None
        async with httpx2.AsyncClient(verify=self._tls(), timeout=self._timeout, trust_env=False) as client:
            while True:
                wait = 0.0
                try:
                    async with aclosing(self._round(client)) as sets:
                        async for found in sets:
                            if found != given:
                                given = found
                                yield found
                    wait = self._silent_end()
                except _Gone:
                    self._version = ""
                    wait = self._silent_end()
                except LookFailed as error:
                    wait = self._failed(str(error))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self._version = ""  # what was missed is not known
                    wait = self._failed(f"the API sent what cannot be read: {error}")
                except (httpx2.HTTPError, OSError) as error:
                    wait = self._failed(f"cannot talk to {self._api}: {type(error).__name__}: {error}".rstrip(": "))
                await self._clock.sleep(wait)

    def _silent_end(self) -> float:
        """A round that ended without an error: the first brings on the next at once, empty ones in a row a pause."""
        self._in_a_row += 1
        return self._wait(self._in_a_row - 1) if self._in_a_row > 1 else 0.0

    async def _round(self, client: AsyncClient) -> AsyncGenerator[Sequence[Endpoint], None]:
        """List if need be, then watch until the watch ends. Whatever is heard of a watch makes failures forgotten."""
        if not self._version:
            self._version = await self._list(client)
            yield self._slices.endpoints()
        began = self._clock.monotonic()
        self.watches += 1
        query = {
            "watch": "1",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(self._watch_for))),
        }
        async with aclosing(self._lines(client, query)) as lines:
            async for line in lines:
                self._went_well()
                if self._take(line):
                    yield self._slices.endpoints()
        if self._clock.monotonic() - began >= 1.0:
            self._went_well()

    async def _list(self, client: AsyncClient) -> str:
        self.lists += 1
        found: list[Slice] = []
        following = ""
        for _ in range(_PAGES):
            query = {"limit": str(_PAGE), **({"continue": following} if following else {})}
            async with asyncio.timeout(self._timeout * 3):
                response = await client.get(self._path, params=self._query(query), headers=await self._headers())
            _expect_ok(response, response.content)
            page = msgspec.json.decode(response.content, type=SliceList)
            found += page.items or ()
            following = page.metadata.next_page
            if not following:
                self._slices.replace(found)
                return page.metadata.resource_version
        raise LookFailed(f"more than {_PAGES} pages of slices; that is no one service")

    async def _lines(self, client: AsyncClient, query: dict[str, str]) -> AsyncGenerator[bytes, None]:
        import httpx2

        patience = httpx2.Timeout(self._timeout, read=self._watch_for + self._timeout)
        request = client.stream(
            "GET", self._path, params=self._query(query), headers=await self._headers(), timeout=patience
        )
        async with request as response:
            if response.status_code != 200:
                _expect_ok(response, await response.aread())
            self.problem = ""  # the failures in a row are forgotten once something was heard
            rest = b""
            async for chunk in response.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
                if len(rest) > _LINE:
                    raise LookFailed(f"a change of more than {_LINE} bytes; no slice is that large")

    def _take(self, line: bytes) -> bool:
        """Whether the slices have changed."""
        change = msgspec.json.decode(line, type=_Change)
        if change.type == "ERROR":
            status = msgspec.json.decode(change.object, type=_Status)
            if status.code == 410:
                raise _Gone("410")
            self._version = ""
            raise LookFailed(f"the watch ended with {status.code}: {status.message}")
        changed = msgspec.json.decode(change.object, type=Slice)
        self._version = changed.metadata.resource_version or self._version
        if change.type in ("ADDED", "MODIFIED"):
            self._slices.put(changed)
        elif change.type == "DELETED":
            self._slices.drop(changed)
        else:  # BOOKMARK, and what later versions of the API may say
            return False
        return True

    def _query(self, more: dict[str, str]) -> dict[str, str]:
        return {"labelSelector": self._selector, **more}

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "tenfold-discovery"}
        if self._token is not None:
            try:
                token = (await asyncio.to_thread(self._token.read_text, "ascii")).strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LookFailed(f"cannot read the token {self._token}: {error}") from None
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _tls(self) -> Any:
        if self._ca is None or not self._api.startswith("https:"):
            return True
        try:
            return ssl.create_default_context(cafile=str(self._ca))
        except OSError as error:
            raise MisuseError(f"kubernetes ca: cannot read {self._ca}: {error}; give `ca=` its path, or None") from None


def _expect_ok(response: Response, body: bytes) -> None:
    code = response.status_code
    if code == 200:
        return
    if code == 410:
        raise _Gone("410")
    try:
        message = msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        message = ""
    hint = "; give the service account `list` and `watch` of `endpointslices`" if code == 403 else ""
    raise LookFailed(f"the API answered {code} {message or response.reason_phrase}".rstrip() + hint)


def _api(given: str | None) -> str:
    if given is None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise MisuseError('kubernetes api: not within a cluster; give its address, such as "http://127.0.0.1:8001"')
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    if not given.startswith(("http://", "https://")):
        raise MisuseError(f'kubernetes api: expected an address such as "https://10.0.0.1:6443", got {given!r}')
    return given.rstrip("/")


def _own_namespace() -> str:
    try:
        return Path(f"{ACCOUNT}/namespace").read_text("ascii").strip()
    except OSError:
        return "default"
