"""Everything that an administrator can ask of an HAProxy that is driven: JSON in, JSON out, as `Control` has it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.admin.asked import expect, reload
from tenfold.gateway.admin.happened import Happened
from tenfold.gateway.config import Router
from tenfold.gateway.haproxy import state
from tenfold.gateway.haproxy.servers import Override

if TYPE_CHECKING:
    from tenfold.gateway.haproxy.engine import HAProxyGateway
    from tenfold.gateway.haproxy.keeping import Keeper

Params = dict[str, Any]
STATES: Final = ("ready", "drain", "maint")


class Asking:
    """The administrator's hand on ``gateway``, which must be running when it is used."""

    def __init__(self, gateway: HAProxyGateway) -> None:
        self._gateway: Final = gateway
        self._happened: Happened | None = None

    async def call(self, method: str, params: Params) -> dict[str, Any]:
        """As `Control.call`. Raises `MisuseError` for what makes no sense or cannot be done."""
        found = _METHODS.get(method)
        if found is None:
            raise MisuseError(f"method: expected one of {', '.join(_METHODS)}, got {method!r}")
        return await found(self, params)

    def close(self) -> None:
        """Hear of events no more."""
        if self._happened is not None:
            self._happened.close()
            self._happened = None

    @property
    def _keeper(self) -> Keeper:
        return self._gateway.keeper

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _state(self, params: Params) -> dict[str, Any]:
        expect(params)
        await self._keeper.collect()
        return self._gateway.state()

    async def _metrics(self, params: Params) -> dict[str, Any]:
        expect(params)
        keeper = self._keeper
        await keeper.collect()
        found = state.samples(
            keeper.config, keeper.all_wanted(), keeper.numbers, keeper.reloads, self._gateway.draining
        )
        return {"metrics": found}

    async def _config(self, params: Params) -> dict[str, Any]:
        expect(params)
        return {"config": self._keeper.config.document()}

    async def _events(self, params: Params) -> dict[str, Any]:
        expect(params, "since")
        since = params.get("since", 0.0)
        if not isinstance(since, int | float):
            raise MisuseError(f"since: expected a Unix time, got {since!r}")
        if self._happened is None:
            self._happened = Happened(time.time)
        return self._happened.state(since)

    async def _explain(self, params: Params) -> dict[str, Any]:
        expect(params, "method", "url", "headers", "client")
        url, method = params.get("url"), params.get("method", "GET")
        if not isinstance(url, str) or not isinstance(method, str):
            raise MisuseError(f"explain: expected texts for url and method, got {url!r} and {method!r}")
        host, _, path = url.partition("://")[2].partition("/") if "://" in url else ("", "", url.removeprefix("/"))
        headers = {str(each).lower(): str(value) for each, value in (params.get("headers") or {}).items()}
        config = self._keeper.config
        route = Router(config.routes).match(
            method, host or headers.get("host", ""), "/" + path.partition("?")[0], headers
        )
        if route is None:
            return {"route": None, "answer": 404, "because": "no route is for this request"}
        found: dict[str, Any] = {"route": route.name, "pool": route.pool}
        if route.pool is not None:
            pick = config.pool(route.pool).pick
            found["because"] = f"HAProxy picks by {pick}, and does not tell in advance"
            found["endpoints"] = [
                {"endpoint": id, "score": None, "because": each["status"]}
                for id, each in self._gateway.state()["pools"][route.pool]["endpoints"].items()
            ]
        return found

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _purge(self, params: Params) -> dict[str, Any]:
        raise MisuseError(
            "purge: the engine haproxy has no purge; its cache forgets by time, and all of it at a reload"
        )

    async def _endpoint(self, params: Params) -> dict[str, Any]:
        expect(params, "pool", "id", "weight", *STATES)
        keeper = self._keeper
        endpoints = keeper.discovering.endpoints
        name, id = params.get("pool"), params.get("id")
        if not isinstance(name, str) or name not in endpoints:
            raise MisuseError(f"pool: expected one of {', '.join(endpoints) or 'none'}, got {name!r}")
        known = [each.id for each in endpoints[name]]
        if not isinstance(id, str) or id not in known:
            raise MisuseError(f"id: expected one of {', '.join(known) or 'none'}, got {id!r}")
        states = [each for each in STATES if each in params]
        if len(states) + ("weight" in params) == 0 or len(states) > 1:
            raise MisuseError(f"endpoint: expected a weight or one of {', '.join(STATES)}, got {params!r}")
        weight = params.get("weight")
        if weight is not None and (type(weight) not in (int, float) or not 0 <= weight < inf):
            raise MisuseError(f"weight: expected a number >= 0, or null for the declared one, got {weight!r}")
        for each in states:
            if params[each] is not True:
                raise MisuseError(f"{each}: expected true, got {params[each]!r}")
        async with keeper.lock:
            override = keeper.overrides.setdefault((name, id), Override())
            if "weight" in params:
                override.weight = weight
            if states:
                override.state = states[0]
            await keeper.told()
            await keeper.collect()
        return {"pool": name, "id": id, **self._gateway.state()["pools"][name]["endpoints"][id]}

    async def _reload(self, params: Params) -> dict[str, Any]:
        return await reload(self._gateway, params, "haproxy")

    async def _drain(self, params: Params) -> dict[str, Any]:
        expect(params)
        self._gateway.begin_to_drain()
        return {"draining": True}

    def __repr__(self) -> str:
        return f"<Asking of {self._gateway!r}>"


_METHODS: Final[dict[str, Callable[[Asking, Params], Awaitable[dict[str, Any]]]]] = {
    "state": Asking._state,
    "metrics": Asking._metrics,
    "purge": Asking._purge,
    "endpoint": Asking._endpoint,
    "explain": Asking._explain,
    "config": Asking._config,
    "reload": Asking._reload,
    "drain": Asking._drain,
    "events": Asking._events,
}
