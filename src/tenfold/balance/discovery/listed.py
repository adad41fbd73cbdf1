"""A set that is known from the start."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence

from tenfold._core.errors import MisuseError
from tenfold.balance.discovery.base import Discovery, as_set
from tenfold.balance.discovery.declared import read_endpoints
from tenfold.balance.endpoint import Endpoint


class FromList(Discovery):
    """These endpoints, and that is it: `Endpoint` objects or urls, whose host and port are the id then.

    Raises `MisuseError` for an empty list, for two of the same id, and for what is no endpoint.
    """

    def __init__(self, endpoints: Iterable[Endpoint | str]) -> None:
        super().__init__("list")
        if isinstance(endpoints, str):
            raise MisuseError(f"list: expected several endpoints, got one text {endpoints!r}; put it in brackets")
        made = [read_endpoints([each], "list")[0] if isinstance(each, str) else each for each in endpoints]
        self.endpoints = as_set(made, "list")
        if not self.endpoints:
            raise MisuseError("list: expected at least one endpoint, got none")

    async def changes(self) -> AsyncGenerator[Sequence[Endpoint], None]:
        """The list, once."""
        yield self.endpoints
