"""HAProxy's routing against `Router`, and texts that try to become configuration."""

import json
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Config, Gateway, HeaderChanges, Respond, Route, Router
from tenfold.gateway.haproxy.binary import HAProxyError, check_file, find_binary
from tenfold.gateway.haproxy.render import Place, render

try:
    BINARY = find_binary()
except MisuseError:
    pytest.skip("there is no HAProxy", allow_module_level=True)

HOSTS = ["shop.example", "a.shop.example", "*.shop.example", "*.a.shop.example", "*.example", "other"]
PATHS = ["/", "/api", "/api/", "/api/v1", "/api/v1/items", "/apix", "/static/a.css", "/-d", "/a}b$\"'"]
ROUTES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(HOSTS), unique=True, max_size=2).map(tuple),
        st.sampled_from(PATHS),
        st.booleans(),
        st.sampled_from([(), ("GET",), ("POST", "PUT")]),
        st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "}", True, False]), max_size=2),
    ),
    min_size=2,
    max_size=12,
)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["GET", "POST", "DELETE"]),
        st.sampled_from(["shop.example", "A.shop.example:80", "b.a.shop.example", "x.y.example", "other.", "example"]),
        st.sampled_from([*PATHS, "/api/v1/items/7", "/api/v2", "/zzz", "//api", "/api//v1"]),
        st.dictionaries(st.sampled_from(["x-a", "x-b", "x-c"]), st.sampled_from(["1", "2", "}"])),
    ),
    min_size=30,
    max_size=30,
)


@contextmanager
def serving(config):
    """The address of an HAProxy that runs it."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        file = Path(directory, "haproxy.cfg")
        file.write_text(render(config, {}, {}, Place(directory, (listener.fileno(),))))
        process = subprocess.Popen([BINARY, "-db", "-q", "-f", file], pass_fds=(listener.fileno(),))
        try:
            yield listener.getsockname()
        finally:
            process.kill()
            process.wait()


def ask(peer, data):
    """Status, head and body of the answer."""
    peer.sendall(data)
    got = b""
    while b"\r\n\r\n" not in got:
        got += peer.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += peer.recv(65536)
    return int(head.split(b" ")[1]), head, body


def config_of(routes):
    return Config(gateway=Gateway(listen=["127.0.0.1:0"]), pools=(), routes=tuple(routes))


@given(ROUTES, REQUESTS)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_haproxy_takes_the_route_that_the_router_takes(rows, requests):
    routes = [
        Route(name=f"r{n}", host=host, path=path, exact=exact, methods=methods, headers=fields,
              respond=Respond(body=f"r{n}"))
        for n, (host, path, exact, methods, fields) in enumerate(rows)
    ]  # fmt: skip
    router = Router(routes)
    with serving(config_of(routes)) as address, socket.create_connection(address, 5) as peer:
        for method, host, path, headers in requests:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            status, _, body = ask(
                peer, f"{method} {path}?q=/x HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{lines}\r\n".encode()
            )
            expected = router.match(method, host, path, headers)
            if expected is None:
                assert (status, json.loads(body)["reason"]) == (404, "no_route")
            else:
                assert body.decode() == expected.name


TOKENS = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=12)
VALUES = st.one_of(
    st.from_regex(r"[!-~]([ \t!-~]{0,20}[!-~])?", fullmatch=True),
    st.sampled_from(
        ["}", "{", "%[src]", "a  b", "%%", "\\", "'", '"', "#", "$HOME", "a\\", "-f", "if", "a  ']\"b\\ ,)"]
    ),
)


@given(TOKENS, VALUES, VALUES, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
       st.from_regex(r"/[!-\"$->@-~]{0,20}", fullmatch=True))  # fmt: skip
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_text_to_haproxy(name, wanted, value, body, path):
    name = f"x{name}"
    if any(part in (".", "..") for part in path.split("/")):
        return
    routes = [
        Route(name="rest", respond=404),
        Route(name="it", path=path, exact=True, headers={name: wanted},
              response_headers=HeaderChanges(set={name: value}), respond=Respond(body=body)),
    ]  # fmt: skip
    with serving(config_of(routes)) as address, socket.create_connection(address, 5) as peer:
        status, head, got = ask(peer, f"GET {path} HTTP/1.1\r\nHost: a\r\n{name}: {wanted}\r\n\r\n".encode())
        assert (status, got) == (200, body.encode())
        found = next(line for line in head.split(b"\r\n") if line.lower().startswith(name.lower().encode() + b":"))
        assert found.partition(b":")[2].strip() == value.encode()
        assert ask(peer, f"GET {path} HTTP/1.1\r\nHost: a\r\n{name}: {wanted}x\r\n\r\n".encode())[0] == 404


def test_haproxy_says_what_it_does_not_understand(tmp_path):
    file = tmp_path / "haproxy.cfg"
    file.write_text("global\n  unheard of\n")
    with pytest.raises(HAProxyError, match="unknown keyword 'unheard'"):
        check_file(BINARY, str(file))
