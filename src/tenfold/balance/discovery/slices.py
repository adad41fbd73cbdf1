"""What Kubernetes knows of a service's pods, put together from its EndpointSlices. Pure.

Theory. A service's endpoints are spread over several slices (``discovery.k8s.io/v1``, a hundred each), which change
one by one; while the controller moves an endpoint from one slice to another it may stand in both, so whoever reads
them must take it once. Three conditions say how an endpoint is: *ready* (give it work), *serving* (its readiness
probe succeeds, even while it ends) and *terminating* (its pod is being deleted; *ready* is false then). Unknown is
said by leaving out: no *ready* means ready, no *serving* means as *ready*.

Who is used: the ready ones. If none is ready, those that are terminating and still serve, as kube-proxy does it: a
rollout that ends the last pod before the next is ready must not drop what can still be served.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from tenfold.balance.discovery.base import LookFailed, as_set
from tenfold.balance.endpoint import Endpoint

Family = Literal["IPv4", "IPv6"]


class Conditions(msgspec.Struct, frozen=True):
    """How an endpoint is; None: not known."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Reference(msgspec.Struct, frozen=True):
    """What stands behind an endpoint."""

    kind: str = ""
    name: str = ""


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint of a slice. Of several addresses only the first counts, says the API."""

    addresses: list[str]
    conditions: Conditions = Conditions()
    zone: str | None = None
    node_name: str | None = None
    target_ref: Reference | None = None


class Port(msgspec.Struct, frozen=True):
    """One port of a slice."""

    name: str | None = None
    port: int | None = None


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """Of a slice or of a list of them."""

    name: str = ""
    resource_version: str = ""
    next_page: str = msgspec.field(default="", name="continue")


class Slice(msgspec.Struct, frozen=True, rename="camel"):
    """An EndpointSlice, as far as it matters here."""

    metadata: Metadata
    address_type: str = "IPv4"
    endpoints: list[Entry] | None = None
    ports: list[Port] | None = None


class SliceList(msgspec.Struct, frozen=True):
    """One page of a list."""

    metadata: Metadata
    items: list[Slice] | None = None


class Slices:
    """All slices of one service, and the endpoints that they make.

    ``port`` is the name or number of the port to use; None: the only one there is.
    """

    __slots__ = ("_family", "_port", "_scheme", "_slices", "_where")

    def __init__(self, where: str, *, port: str | int | None, scheme: str, family: Family) -> None:
        self._where: Final = where
        self._port: Final = port
        self._scheme: Final = scheme
        self._family: Final = family
        self._slices: dict[str, Slice] = {}

    def replace(self, slices: Iterable[Slice]) -> None:
        """These are all."""
        self._slices = {each.metadata.name: each for each in slices}

    def put(self, changed: Slice) -> None:
        """This one is new, or is so now."""
        self._slices[changed.metadata.name] = changed

    def drop(self, gone: Slice) -> None:
        """This one is gone."""
        self._slices.pop(gone.metadata.name, None)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Who may be given work, sorted by id. Raises `LookFailed` where it is not clear which port is meant."""
        ready: dict[str, Endpoint] = {}
        ending: dict[str, Endpoint] = {}
        for name in sorted(self._slices):
            each = self._slices[name]
            if each.address_type != self._family or not each.endpoints:
                continue
            port = self._port_of(each)
            if port is None:
                continue
            for entry in each.endpoints:
                condition = entry.conditions
                if condition.ready is not False:
                    self._add(ready, entry, port)
                elif condition.serving and condition.terminating:
                    self._add(ending, entry, port)
        return as_set((ready or ending).values(), self._where)

    def _port_of(self, each: Slice) -> int | None:
        ports = [port for port in each.ports or () if port.port is not None]
        if self._port is None:
            if len(ports) > 1:
                names = ", ".join(str(port.name or port.port) for port in ports)
                raise LookFailed(f"{self._where} has several ports ({names}); say which by `port=`")
            return ports[0].port if ports else None
        return next((port.port for port in ports if self._port in (port.name, port.port)), None)

    def _add(self, found: dict[str, Endpoint], entry: Entry, port: int) -> None:
        if not entry.addresses:
            return
        address = entry.addresses[0]
        host = f"[{address}]" if self._family == "IPv6" else address
        reference = entry.target_ref
        # A pod of a StatefulSet keeps its name when it comes back elsewhere, which an address does not.
        id = (
            reference.name if reference is not None and reference.kind == "Pod" and reference.name else f"{host}:{port}"
        )
        metadata: dict[str, Any] = {"node": entry.node_name} if entry.node_name else {}
        try:
            found[id] = Endpoint(
                id, f"{self._scheme}://{host}:{port}", zone=entry.zone or "", metadata=MappingProxyType(metadata)
            )
        except ValueError as error:  # a MisuseError is one, and so is what the standard library says of an odd url
            raise LookFailed(f"{self._where}: {error}") from None

    def __repr__(self) -> str:
        return f"<Slices of {self._where}: {len(self._slices)}>"
