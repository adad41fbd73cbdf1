"""Everything that an administrator can ask of one gateway process: JSON in, JSON out.

What arrives here has been let in already; here it is judged for sense alone. The same methods are carried by a function
call in one process and over a socket to several, so nothing but plain values goes in and comes out.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tenfold import __version__
from tenfold._core.errors import MisuseError
from tenfold.cache.http import surrogate_key
from tenfold.gateway.admin.asked import expect, head_of, reload
from tenfold.gateway.admin.explain import explain
from tenfold.gateway.admin.happened import Happened
from tenfold.gateway.admin.samples import samples
from tenfold.gateway.engine.edge_keys import key_of
from tenfold.gateway.engine.overrides import STATES

if TYPE_CHECKING:
    from tenfold.gateway.engine.gateway import Gateway
    from tenfold.gateway.engine.pool_plan import PoolPlan

Params = dict[str, Any]
_Method = Callable[["Control", Params], Awaitable[dict[str, Any]]]


class Control:
    """The administrator's hand on ``gateway``, which must be running when it is used. Belongs to its event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway: Final = gateway
        self._happened: Happened | None = None

    async def call(self, method: str, params: Params) -> dict[str, Any]:
        """Do ``method`` with ``params``.

        ``state``, ``metrics``, ``config`` and ``drain`` take none; ``purge`` takes ``url``, ``tags`` or ``all``;
        ``endpoint`` takes ``pool``, ``id`` and ``weight``, ``drain``, ``ready`` or ``maint``; ``explain`` takes
        ``method``, ``url`` and ``headers``; ``reload`` takes ``toml``, or nothing for the file it came from;
        ``events`` takes ``since`` (Unix time).

        Raises `MisuseError` for anything else and for what cannot be done.
        """
        found = _METHODS.get(method)
        if found is None:
            raise MisuseError(f"method: expected one of {', '.join(_METHODS)}, got {method!r}")
        return await found(self, params)

    def close(self) -> None:
        """Hear of events no more."""
        if self._happened is not None:
            self._happened.close()
            self._happened = None

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _state(self, params: Params) -> dict[str, Any]:
        expect(params)
        gateway = self._gateway
        state = gateway.state()
        plan = gateway.site.plan
        for name, pool in state["pools"].items():
            tallies = plan.pools[name].tallies
            for id, endpoint in pool["endpoints"].items():
                tally = tallies.get(id)
                endpoint["state"] = gateway.overrides.state(name, id)
                endpoint["requests"] = 0 if tally is None else tally.requests
                endpoint["failures"] = 0 if tally is None else tally.failures
        return {"pid": os.getpid(), "version": __version__, **state}

    async def _metrics(self, params: Params) -> dict[str, Any]:
        expect(params)
        return {"metrics": samples(self._gateway)}

    async def _config(self, params: Params) -> dict[str, Any]:
        expect(params)
        return {"config": self._gateway.config.document()}

    async def _events(self, params: Params) -> dict[str, Any]:
        expect(params, "since")
        since = params.get("since", 0.0)
        if not isinstance(since, int | float):
            raise MisuseError(f"since: expected a Unix time, got {since!r}")
        if self._happened is None:
            self._happened = Happened(self._gateway.site.wall)
        return self._happened.state(since)

    async def _explain(self, params: Params) -> dict[str, Any]:
        expect(params, "method", "url", "headers", "client")
        if "url" not in params:
            raise MisuseError("explain: expected a url, got none")
        method = params.get("method", "GET")
        client = params.get("client", "127.0.0.1")
        if not isinstance(method, str) or not isinstance(client, str):
            raise MisuseError(f"explain: expected texts for method and client, got {method!r} and {client!r}")
        return explain(self._gateway.site.plan, method, params["url"], params.get("headers"), client)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _purge(self, params: Params) -> dict[str, Any]:
        expect(params, "url", "tags", "all")
        edge = self._gateway.edge
        if edge is None:
            raise MisuseError("purge: expected a gateway with a cache, got one without; no route has edge")
        if len(params) != 1:
            raise MisuseError(f"purge: expected one of url, tags and all, got {', '.join(params) or 'none'}")
        if "url" in params:
            return {"purged": sum(edge.purge_url(key) for key in self._keys(params["url"]))}
        if "tags" in params:
            tags = params["tags"]
            if not isinstance(tags, list) or not tags or not all(isinstance(each, str) and each for each in tags):
                raise MisuseError(f'tags: expected a list of tags such as ["product:7"], got {tags!r}')
            return {"purged": edge.purge_keys([surrogate_key(tag) for tag in tags])}
        if params["all"] is not True:
            raise MisuseError(f"all: expected true, got {params['all']!r}")
        return {"purged": edge.purge_all()}

    def _keys(self, url: Any) -> list[bytes]:
        """What responses to that URL are stored under, after all that its route does to it. A path without a scheme
        stands for both.
        """
        head = head_of("GET", url)
        said = urlsplit(url).scheme
        route = self._gateway.site.plan.match(head)
        options = None
        if route is not None and route.pool is not None:
            route.change(head)
            options = route.route.edge
        return [key_of(scheme, head, options) for scheme in ((said.encode(),) if said else (b"http", b"https"))]

    def _endpoint_of(self, params: Params) -> tuple[PoolPlan, str]:
        name, id = params.get("pool"), params.get("id")
        pools = self._gateway.site.plan.pools
        pool = pools.get(name) if isinstance(name, str) else None
        if pool is None:
            raise MisuseError(f"pool: expected one of {', '.join(pools) or 'none'}, got {name!r}")
        known = [each.id for each in pool.balancer.endpoints]
        if not isinstance(id, str) or id not in known:
            raise MisuseError(f"id: expected one of {', '.join(known) or 'none'}, got {id!r}")
        return pool, id

    async def _endpoint(self, params: Params) -> dict[str, Any]:
        expect(params, "pool", "id", "weight", *STATES)
        pool, id = self._endpoint_of(params)
        wanted = [state for state in STATES if state in params]
        if len(wanted) + ("weight" in params) == 0 or len(wanted) > 1:
            raise MisuseError(f"endpoint: expected a weight or one of {', '.join(STATES)}, got {params!r}")
        overrides = self._gateway.overrides
        if "weight" in params:
            weight = params["weight"]
            if weight is not None and (type(weight) not in (int, float) or not 0 <= weight < inf):
                raise MisuseError(f"weight: expected a number >= 0, or null for the declared one, got {weight!r}")
            overrides.set_weight(pool, id, weight)
        for state in wanted:
            if params[state] is not True:
                raise MisuseError(f"{state}: expected true, got {params[state]!r}")
            overrides.set_state(pool, id, state)
        told = (await self._state({}))["pools"][pool.options.name]["endpoints"][id]
        return {"pool": pool.options.name, "id": id, **told}

    async def _reload(self, params: Params) -> dict[str, Any]:
        return await reload(self._gateway, params)

    async def _drain(self, params: Params) -> dict[str, Any]:
        expect(params)
        gateway = self._gateway
        gateway.stopping.set()
        if not gateway.site.draining:
            gateway.site.tasks.spawn(gateway.drain(), name="drain")
        return {"draining": True}

    def __repr__(self) -> str:
        return f"<Control of {self._gateway!r}>"


_METHODS: Final[dict[str, _Method]] = {
    "state": Control._state,
    "metrics": Control._metrics,
    "purge": Control._purge,
    "endpoint": Control._endpoint,
    "explain": Control._explain,
    "config": Control._config,
    "reload": Control._reload,
    "drain": Control._drain,
    "events": Control._events,
}
