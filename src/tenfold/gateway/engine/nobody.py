"""The client of an answer that is fetched for the store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenfold.gateway.framing import Link, RequestHead

if TYPE_CHECKING:
    from tenfold.gateway.engine.client_side import Client
    from tenfold.gateway.engine.ending import Ending
    from tenfold.gateway.engine.forward import Exchange


class Nobody:
    """Stands for a client that has gone, or never was, so that an answer can be stored all the same."""

    __slots__ = ("_client", "peer", "scheme")

    peer: str
    scheme: str

    full = closing = False

    def __init__(self, client: Client | Nobody) -> None:
        self._client: Client = client._client if isinstance(client, Nobody) else client
        self.peer = client.peer
        self.scheme = client.scheme

    def link(self, host: bool) -> Link:
        """As its own."""
        return self._client.link(host)

    def believed(self, head: RequestHead) -> str:
        """As its own."""
        return self._client.believed(head)

    def write(self, data: bytes) -> None:
        """To nobody."""

    def done(self, exchange: Ending, *, cut: bool) -> None:
        """Nobody cares."""

    def switch(self, exchange: Exchange) -> None:
        """Never: what is stored is no tunnel."""

    def pause_reading(self) -> None:
        """There is nothing to read."""

    def resume_reading(self) -> None:
        """There is nothing to read."""
