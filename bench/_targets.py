"""Servers to measure against: nginx where it is installed, else a small one of our own; and one of known
service time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BODY = 1024

_NGINX = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile off; tcp_nodelay on;
  client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "{body}"; }} }}
}}
"""

_OWN = """
import asyncio, sys
try:
    import uvloop as loops
except ImportError:
    import asyncio as loops
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 1024\\r\\n\\r\\n" + b"x" * 1024
class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(ANSWER * data.count(b"\\r\\n\\r\\n"))
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
loops.run(main())
"""

# One queue, one server, `service` seconds each: departures keep an exact clock of their own, so that the rate
# at which a backlog drains does not depend on how exactly the loop sleeps.
_PACED = """
import asyncio, sys
from time import monotonic
async def main():
    service, queue = float(sys.argv[2]), asyncio.Queue()
    async def serve(reader, writer):
        try:
            while True:
                await reader.readuntil(b"\\r\\n\\r\\n")
                queue.put_nowait(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
    await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    free = 0.0
    while True:
        writer = await queue.get()
        free = max(monotonic(), free) + service
        if (left := free - monotonic()) > 0:
            await asyncio.sleep(left)
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(command: list[str], port: int, cpu: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The process, listening, on core ``cpu``; stopped and reaped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        until = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > until:
                said = process.stderr.read().decode(errors="replace") if process.stderr and process.poll() else ""
                raise RuntimeError(f"{command[0]} did not listen on port {port}: {said[-500:]}")
            time.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


@contextlib.contextmanager
def fast(cpu: int | None) -> Iterator[tuple[str, str]]:
    """``(name, url)`` of the fastest server at hand; answers 1 KiB."""
    port = free_port()
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    with tempfile.TemporaryDirectory() as root:
        if nginx:
            conf = Path(root) / "nginx.conf"
            user = "user root;" if os.geteuid() == 0 else ""
            conf.write_text(_NGINX.format(root=root, port=port, body="x" * BODY, user=user))
            command, name = [nginx, "-p", root, "-c", str(conf), "-e", f"{root}/error.log"], "nginx"
        else:
            command, name = [sys.executable, "-c", _OWN, str(port)], "own uvloop server"
        with started(command, port, cpu):
            yield name, f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def paced(service: float) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that takes exactly ``service`` seconds a request, one at a time."""
    port = free_port()
    with started([sys.executable, "-c", _PACED, str(port), str(service)], port) as process:
        yield process, f"http://127.0.0.1:{port}"
