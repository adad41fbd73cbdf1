"""What the admin API has under which path, and what of the workers' answers it shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.admin.exposition import expose, negotiate
from tenfold.gateway.admin.http import Request, Response, answer, problem
from tenfold.gateway.admin.live import Live
from tenfold.gateway.admin.merge import merge_pools, merge_samples, merge_state
from tenfold.gateway.admin.samples import sample
from tenfold.gateway.admin.streams import events, live_socket
from tenfold.gateway.admin.workers import Workers

TIMEOUT: Final = 10.0
"""Seconds for the workers to answer."""
_STATES: Final = ("ready", "drain", "maint")

_Method = Callable[["Api", Request], Awaitable[Response]]


class Api:
    """Turns requests into words to ``workers``."""

    def __init__(self, workers: Workers, live: Live) -> None:
        self._workers = workers
        self._live = live

    async def handle(self, request: Request) -> Response:
        """The answer to a request that was let in. Raises `MisuseError` for what makes no sense."""
        path = "/" + "/".join(request.segments)
        methods = _PATHS.get(path)
        if methods is None:
            match request.segments:
                case ("v1", "pools", _, "endpoints"):
                    methods = {"GET": Api._endpoints}
                case ("v1", "pools", _, "endpoints", _):
                    methods = {"GET": Api._endpoint, "PATCH": Api._change}
                case _:
                    return problem(404, f"there is no {path} here")
        method = "GET" if request.method == "HEAD" else request.method
        found = methods.get(method)
        if found is None:
            allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
            return problem(405, f"{path} has {allowed}", b"Allow: %b\r\n" % allowed.encode())
        return await found(self, request)

    async def _ask(self, method: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        found = await self._workers.call_all(method, params, timeout=TIMEOUT)
        if not found:
            raise TimeoutError
        return found

    # -- looking ------------------------------------------------------------------------------------------------------

    async def _state(self, request: Request) -> Response:
        return answer(merge_state(await self._ask("state", {})))

    async def _pools(self, request: Request) -> Response:
        return answer({"pools": merge_pools(await self._ask("state", {}))})

    async def _pool(self, name: str) -> list[dict[str, Any]] | None:
        pool = merge_pools(await self._ask("state", {})).get(name)
        return None if pool is None else pool["endpoints"]

    async def _endpoints(self, request: Request) -> Response:
        found = await self._pool(request.segments[2])
        if found is None:
            return problem(404, f"there is no pool {request.segments[2]!r}")
        return answer({"pool": request.segments[2], "endpoints": found})

    async def _one(self, request: Request) -> dict[str, Any] | Response:
        _, _, pool, _, id = request.segments
        found = await self._pool(pool)
        if found is None:
            return problem(404, f"there is no pool {pool!r}")
        endpoint = next((each for each in found if each["id"] == id), None)
        return problem(404, f"pool {pool!r} has no endpoint {id!r}") if endpoint is None else endpoint

    async def _endpoint(self, request: Request) -> Response:
        found = await self._one(request)
        return found if isinstance(found, Response) else answer(found)

    async def _explain(self, request: Request) -> Response:
        params = dict(request.query) if request.method in ("GET", "HEAD") else request.json()
        return answer((await self._ask("explain", params))[0])

    async def _config(self, request: Request) -> Response:
        return answer((await self._ask("config", {}))[0])

    async def _metrics(self, request: Request) -> Response:
        answers = await self._ask("metrics", {})
        found = merge_samples(answers)
        found += (sample("workers", len(answers)), sample("live_dropped_total", self._live.dropped))
        accept = b", ".join(request.head.fields.get(b"accept", ())).decode("latin-1")
        kind = negotiate(accept)
        return Response(200, kind.encode(), expose(found, kind), b"Vary: Accept\r\n")

    async def _events(self, request: Request) -> Response:
        return events(self._live)

    async def _live_socket(self, request: Request) -> Response:
        return live_socket(self._live, request)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def _change(self, request: Request) -> Response:
        wanted = request.json()
        strange = [name for name in wanted if name not in ("weight", "state")]
        if strange or not wanted:
            raise MisuseError(f"body: expected weight or state or both, got {', '.join(wanted) or 'nothing'}")
        if "state" in wanted and wanted["state"] not in _STATES:
            raise MisuseError(f"state: expected one of {', '.join(_STATES)}, got {wanted['state']!r}")
        found = await self._one(request)
        if isinstance(found, Response):
            return found
        params: dict[str, Any] = {"pool": request.segments[2], "id": request.segments[4]}
        if "weight" in wanted:
            params["weight"] = wanted["weight"]
        if "state" in wanted:
            params[wanted["state"]] = True
        await self._ask("endpoint", params)
        return await self._endpoint(request)

    async def _purge(self, request: Request) -> Response:
        answers = await self._ask("purge", request.json())
        return answer({"purged": sum(each["purged"] for each in answers)})

    async def _reload(self, request: Request) -> Response:
        kind = (request.head.get(b"content-type") or b"").partition(b";")[0].strip().lower()
        if request.body and kind == b"application/toml":
            try:
                params = {"toml": request.body.decode()}
            except UnicodeDecodeError:
                raise MisuseError("body: expected TOML in UTF-8") from None
        else:
            params = request.json()
        return answer((await self._ask("reload", params))[0])

    async def _drain(self, request: Request) -> Response:
        await self._ask("drain", {})
        return answer({"draining": True}, 202)


_PATHS: Final[dict[str, dict[str, _Method]]] = {
    "/metrics": {"GET": Api._metrics},
    "/v1/state": {"GET": Api._state},
    "/v1/pools": {"GET": Api._pools},
    "/v1/explain": {"GET": Api._explain, "POST": Api._explain},
    "/v1/config": {"GET": Api._config},
    "/v1/purge": {"POST": Api._purge},
    "/v1/reload": {"POST": Api._reload},
    "/v1/drain": {"POST": Api._drain},
    "/v1/events": {"GET": Api._events},
    "/v1/live": {"GET": Api._live_socket},
}
