"""A reverse proxy of aiohttp's server and client: ``python _gateway_aiohttp.py PORT BACKEND``.

As somebody who knows aiohttp would write it: uvloop, one session with a pool of connections and without cookies,
nothing decompressed, bodies streamed both ways, hop-by-hop fields dropped, time-outs, the backend with fewer requests
under way of two, and another try for what can be repeated.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict

_HOPS = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host")
)
_SMALL = 65536


class Proxy:
    """The handler and what it counts."""

    def __init__(self, backends: list[str]) -> None:
        self.backends = backends
        self.under_way = [0] * len(backends)
        self.requests = self.failed = self.retries = 0
        self.session: ClientSession

    async def life(self, _: web.Application) -> AsyncIterator[None]:
        self.session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=4, use_dns_cache=True),
            timeout=ClientTimeout(total=None, sock_connect=2, sock_read=60),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
        )
        async with self.session:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in _HOPS)
        headers["X-Forwarded-For"] = request.remote or ""
        headers["X-Request-Id"] = uuid.uuid4().hex
        headers["Host"] = request.host
        body = request.content if request.body_exists else None
        tries = 1 if body is not None else 3
        for left in reversed(range(tries)):
            number = min(range(len(self.backends)), key=self.under_way.__getitem__)
            self.under_way[number] += 1
            try:
                return await self.forward(request, self.backends[number], headers, body)
            except ClientConnectionError:
                if not left:
                    break
                self.retries += 1
            finally:
                self.under_way[number] -= 1
        self.failed += 1
        return web.Response(status=502)

    async def forward(
        self, request: web.Request, backend: str, headers: CIMultiDict[str], body: object
    ) -> web.StreamResponse:
        async with self.session.request(
            request.method, backend + request.raw_path, headers=headers, data=body, allow_redirects=False
        ) as answer:
            back = CIMultiDict((name, value) for name, value in answer.headers.items() if name.lower() not in _HOPS)
            if answer.content_length is not None and answer.content_length <= _SMALL:
                return web.Response(status=answer.status, headers=back, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=back)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def main() -> None:
    port, backend = sys.argv[1:]
    proxy = Proxy([f"http://127.0.0.1:{backend}", f"http://127.0.0.2:{backend}"])
    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(proxy.life)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
