"""Files that are wrong: one sentence each, with the right line. ``#!`` marks the line that must be told."""

# ruff: noqa: E501 - a row is a line

import pytest

from tenfold.gateway.config import GatewayConfigError, load_config, read_config

GATEWAY = '[gateway]\nlisten = "127.0.0.1:8080"\n'
POOL = '[[pool]]\nname = "app"\nendpoints = ["http://127.0.0.1:9001"]\n'
ROUTE = '[[route]]\npath = "/"\npool = "app"\n'
ENVIRON = {"TOKEN": "hunter2-hunter2-hunter2", "SHORT": "hunter2", "WORKERS": "many", "EMPTY": ""}


def gateway(line):
    return f"{GATEWAY}{line} #!\n{POOL}{ROUTE}"


def admin(line):
    return f'{GATEWAY}[admin]\ntoken = "0123456789abcdef"\n{line} #!\n{POOL}{ROUTE}'


def pool(line):
    return f"{GATEWAY}{POOL}{line} #!\n{ROUTE}"


def bare_pool(line):
    return f'{GATEWAY}[[pool]]\nname = "app"\n{line} #!\n{ROUTE}'


def route(line):
    return f"{GATEWAY}{POOL}{ROUTE}{line} #!\n"


def answer(line):
    return f"{GATEWAY}{POOL}{ROUTE}[[route]]\npath = '/x'\nrespond = 204\n{line} #!\n"


def edge(line):
    return f"{GATEWAY}[edge]\n{line} #!\n{POOL}{ROUTE}"


ROWS = [
    # the file
    ("[gateway\n#!", "", "expected TOML, got what breaks its rules: Expected ']' at the end of a table declaration", 1),
    (f"{GATEWAY}x = \n", "", "expected TOML, got what breaks its rules: Invalid value", 3),
    (f"{GATEWAY}listen = 1\n", "", "Cannot overwrite a value", 3),
    (f'{GATEWAY}processes = "\n', "", "expected TOML", 3),
    (f"{GATEWAY}{POOL}{ROUTE}[gatway] #!\n", "gatway", "unknown table; did you mean gateway?"),
    (f"{GATEWAY}{POOL}{ROUTE}[foo] #!\n", "foo", "unknown table; expected gateway or admin or edge or engine"),
    (f"{GATEWAY}{POOL}", "route", "expected at least one table [[route]], got none", 1),
    (f"{POOL}{ROUTE}", "gateway.listen", "expected listen, got none", 1),
    (f"[[gateway]] #!\nlisten = 'a:1'\n{POOL}{ROUTE}", "gateway", "expected a table [gateway], got tables in double"),
    (f"{GATEWAY}[pool] #!\nname = 'app'\n{ROUTE}", "pool", "expected tables [[pool]], got one table in single brackets"),
    (f"gateway = 3 #!\n{POOL}{ROUTE}", "gateway", "expected a table [gateway], got 3"),
    # the gateway
    (f"[gateway]\nlisten = '8080' #!\n{POOL}{ROUTE}", "gateway.listen", "expected an address such as \"127.0.0.1:8080\""),
    (f"[gateway]\nlisten = ':8080' #!\n{POOL}{ROUTE}", "gateway.listen", 'say "0.0.0.0:8080"'),
    (f"[gateway]\nlisten = 'a:70000' #!\n{POOL}{ROUTE}", "gateway.listen", "with a port of 0 to 65535, got 'a:70000'"),
    (f"[gateway]\nlisten = '1.2.3:80' #!\n{POOL}{ROUTE}", "gateway.listen", "got '1.2.3:80'"),
    (f"[gateway]\nlisten = 'unix:' #!\n{POOL}{ROUTE}", "gateway.listen", "the path of a unix socket"),
    (f"[gateway]\nlisten = [] #!\n{POOL}{ROUTE}", "gateway.listen", "expected a list of addresses of 1 or more, got []"),
    (f"[gateway]\nlisten = [\n'a:1',\n3, #!\n]\n{POOL}{ROUTE}", "gateway.listen 2", "expected an address such as"),
    (
        f"[gateway]\nlisten = ['a:80', 'a:80'] #!\n{POOL}{ROUTE}",
        "gateway.listen",
        "a:80 and a:80 cannot both be listened to; leave one out",
    ),
    (
        f"[gateway]\nlisten = ['127.0.0.1:80', '0.0.0.0:80'] #!\n{POOL}{ROUTE}",
        "gateway.listen",
        "0.0.0.0:80 and 127.0.0.1:80 cannot both be listened to",
    ),
    (gateway("proceses = 2"), "gateway.proceses", "unknown key; did you mean processes?"),
    (gateway("processes = 0"), "gateway.processes", "expected a whole number, 1 to 256, got 0"),
    (gateway("processes = true"), "gateway.processes", "expected a whole number, 1 to 256, got True"),
    (gateway("processes = '2'"), "gateway.processes", "expected a whole number, 1 to 256, got '2'"),
    (gateway("header_timeout = '10 parsecs'"), "gateway.header_timeout", "expected a duration such as"),
    (gateway("idle_timeout = 0"), "gateway.idle_timeout", "expected duration of 1ms or more, got 0"),
    (gateway("header_max = '32 cakes'"), "gateway.header_max", 'expected a size such as "64MB"'),
    (gateway("header_max = 100"), "gateway.header_max", "expected size of 1024 B or more, got 100"),
    (gateway("body_max = 'none'"), "gateway.body_max", '(or "off")'),
    (gateway("tls = { certificate = 'a.pem' }"), "gateway.tls.key", "expected key, got none"),
    (gateway("tls_least = '1.1'"), "gateway.tls_least", 'expected "1.2" or "1.3", got \'1.1\''),
    (gateway("tls = [{ certificate = 'a', key = 'b', names = ['*'] }]"), "gateway.tls 1 names 1", "expected a name such as"),
    (
        gateway("tls = [{ certificate = 'a', key = 'b', names = ['x.y'] }, { certificate = 'a', key = 'b', names = ['X.y'] }]"),
        "gateway.tls",
        "expected one certificate for x.y, got two",
    ),
    (gateway("http2 = true"), "gateway.http2", "expected tls with a certificate"),
    (gateway("trusted = '10.0.0.1/8'"), "gateway.trusted", "expected a network such as \"10.0.0.0/8\""),
    (gateway("trusted = '10.0.0.0/8'\nforwarded = 'off'").replace(" #!", "").replace("trusted", "trusted ", 1)
     .replace("/8'", "/8' #!"), "gateway.trusted", 'means nothing with forwarded = "off"'),
    (gateway("request_id = 'X Id'"), "gateway.request_id", "expected the name of a header"),
    (gateway("access_log = { sample = '110%' }"), "gateway.access_log.sample", "expected a share between 0 and 1"),
    (gateway("access_log = { format = 'xml' }"), "gateway.access_log.format", 'expected "json" or "text", got \'xml\''),
    (gateway("access_log = 3"), "gateway.access_log", "expected the path of a file, got 3"),
    # the admin API
    (f"{GATEWAY}[admin] #!\n{POOL}{ROUTE}", "admin.token", "expected token, got none"),
    (f"{GATEWAY}[admin]\ntoken = 'short' #!\n{POOL}{ROUTE}", "admin.token", "16 printable characters or more, got 5"),
    (f"{GATEWAY}[admin]\ntoken = 5 #!\n{POOL}{ROUTE}", "admin.token", "a secret of 16 characters or more, got a int"),
    (admin("listen = '0.0.0.0:9000'"), "admin.listen", "0.0.0.0:9000 can be reached from other machines; expected a loopback"),
    (admin("listen = '10.1.2.3:9000'"), "admin.listen", "or public = true beside it"),
    (admin("listen = '127.0.0.1:8080'"), "admin.listen", "the gateway listens on 127.0.0.1:8080 (line 2)"),
    (admin("publik = true"), "admin.publik", "unknown key; did you mean public?"),
    # the environment
    (admin("listen = '${NOWHERE}'"), "admin.listen", "NOWHERE is not set in the environment; set it, or say ${NOWHERE:-default}"),
    (admin("listen = '${NOT CLOSED'"), "admin.listen", "expected \"${NAME}\" or \"${NAME:-default}\", got '${NOT CLOSED'"),
    (gateway("processes = '${WORKERS}'"), "gateway.processes", "expected a whole number, 1 to 256, got '${WORKERS}'"),
    (f"{GATEWAY}[admin]\ntoken = '${{SHORT}}' #!\n{POOL}{ROUTE}", "admin.token", "got 7 characters"),
    # pools
    (f"{GATEWAY}[[pool]] #!\nendpoints = ['http://a:1']\n{ROUTE.replace('app', 'b')}{POOL.replace('app', 'b')}", "pool 1 name",
     "expected name, got none"),
    (f"{GATEWAY}{POOL}[[pool]]\nname = 'app' #!\nendpoints = ['http://a:1']\n{ROUTE}", "pool 2 name",
     "the pool on line 4 is called 'app' too; take another name"),
    (pool("pik = 'p2c'"), "pool 1 pik", "unknown key; did you mean pick?"),
    (f"{GATEWAY}[[pool]] #!\nname = 'app'\n{ROUTE}", "pool 1 endpoints", "expected either endpoints or discovery, got neither"),
    (pool("discovery = { dns = 'a', port = 1 }"), "pool 1 discovery", "expected either endpoints or discovery, got both"),
    (bare_pool("endpoints = 'http://a:1'"), "pool 1 endpoints", "expected a list of urls such as"),
    (bare_pool("endpoints = []"), "pool 1 endpoints", "expected a list of urls such as"),
    (bare_pool("endpoints = ['http://a:1', 'ftp://a:1']"), "pool 1 endpoints 2", "expected a url such as"),
    (bare_pool("endpoints = ['tcp://a:1']"), "pool 1 endpoints 1", "because a gateway speaks HTTP, got 'tcp://a:1'"),
    (bare_pool("endpoints = ['http://a:1/x']"), "pool 1 endpoints 1", "scheme, host and port alone"),
    (bare_pool("endpoints = ['http://u:pass@a:1']"), "pool 1 endpoints 1", "expected a url without a name and a password"),
    (bare_pool("endpoints = [\n'http://a:1',\n'http://b:99999', #!\n]").replace("] #!", "]"), "pool 1 endpoints 2", "expected a url such as"),
    (bare_pool("endpoints = ['http://a:1', 'http://a:1']"), "pool 1 endpoints 2", "the id 'a:1' stands on line 5"),
    (bare_pool("endpoints = [{ url = 'http://a:1', x = 2 }]"), "pool 1 endpoints 1 x", "unknown key; expected id or url"),
    (bare_pool("endpoints = [{ url = 'http://a:1', weigth = 2 }]"), "pool 1 endpoints 1 weigth", "did you mean weight?"),
    (bare_pool("endpoints = [{ url = 'http://a:1', weight = -2 }]"), "pool 1 endpoints 1 weight", "expected a weight >= 0, got -2"),
    (bare_pool("endpoints = [{ weight = 2 }]"), "pool 1 endpoints 1 url", "expected url, got none"),
    (bare_pool("endpoints = [{ url = 'http://a:1', weight = 0 }]"), "pool 1 endpoints", "all weights are 0"),
    (pool("pick = 'p3c'"), "pool 1 pick", "'p3c': unknown pick; did you mean p2c?"),
    (pool("pick = { name = 'p3c' }"), "pool 1 pick.name", "did you mean p2c?"),
    (pool("pick = 7"), "pool 1 pick", "expected the name of a pick"),
    (pool("pick = { name = 'p2c', points = 2 }"), "pool 1 pick.points", "unknown key; expected name alone (of p2c)"),
    (pool("pick = { name = 'ring_hash', point = 2 }"), "pool 1 pick.point", "unknown key; did you mean points?"),
    (pool("pick = { name = 'ring_hash', points = 0 }"), "pool 1 pick.points", "expected a whole number, 1 to 10000, got 0"),
    (pool("pick = { name = 'maglev', key = 'ip' }"), "pool 1 pick.key", 'expected one of "client", "header:NAME"'),
    (pool("pick = 'sticky'"), "pool 1 pick", "sticky: expected secret, got none"),
    (pool("pick = { name = 'sticky', secret = 'x' }"), "pool 1 pick.secret", "expected a secret of 16 printable"),
    (pool("pick = { name = 'aperture', index = 3, clients = 3 }"), "pool 1 pick", "expected an index below clients (3), got 3"),
    (pool("pick = { name = 'priority', inner = 'priority' }"), "pool 1 pick", "expected another pick within priority"),
    (pool("check = 'health'"), "pool 1 check", "expected a path such as"),
    (pool("check = { path = '/h', intervall = '1s' }"), "pool 1 check.intervall", "did you mean interval?"),
    (pool("check = { interval = '0s' }"), "pool 1 check.interval", "expected more than 0"),
    (pool("check = { expect = '200-' }"), "pool 1 check.expect", 'expected statuses such as "200-399" or [200, 204]'),
    (pool("check = { tcp = true, path = '/' }"), "pool 1 check.path", "unknown key"),
    (pool("check = { tls = true }"), "pool 1 check.tls", "is made of the pool's tls; leave it out"),
    (pool("check = { tcp = 1 }"), "pool 1 check.tcp", "expected true or false, got 1"),
    (pool("ejection = { share = '200%' }"), "pool 1 ejection.share", "expected a share between 0 and 1"),
    (pool("ejection = { deviations = 3 }"), "pool 1 ejection.deviations", "none can lie 3 standard deviations"),
    (pool("slow_start = 0"), "pool 1 slow_start", "expected more than 0"),
    (pool("breaker = { ratio = 'off', consecutive = 'off' }"), "pool 1 breaker.ratio", "are all off, so it could never open"),
    (pool("breaker = { key = 'x' }"), "pool 1 breaker.key", "is for code; there is a breaker for each endpoint"),
    (pool("breaker = 5"), "pool 1 breaker", "expected true, false or a table such as { ratio = … }, got 5"),
    (pool("max_in_flight = 0"), "pool 1 max_in_flight", "expected a whole number, 1 or more, got 0"),
    (pool("queue = 5"), "pool 1 queue", "means nothing without max_in_flight"),
    (pool("tls = { certificate = 'a' }"), "pool 1 tls.key", "expected both certificate and key, or neither"),
    (pool("tls = { verify = false, ca = 'a' }"), "pool 1 tls.ca", "means nothing with verify = false"),
    (bare_pool("discovery = {}"), "pool 1 discovery", "expected one of file, dns and kubernetes, got none"),
    (bare_pool("discovery = { dns = 'a', kubernetes = 'b', port = 1 }"), "pool 1 discovery.kubernetes", "got dns and kubernetes"),
    (bare_pool("discovery = { dns = 'app.internal' }"), "pool 1 discovery.port", "expected port, got none"),
    (bare_pool("discovery = { dns = 'a', record = 'SRV', port = 1 }"), "pool 1 discovery.port", "says the port itself"),
    (bare_pool("discovery = { file = 'a.yaml' }"), "pool 1 discovery.file", "a path that ends in .toml or .json"),
    (bare_pool("discovery = { file = 'a.toml', port = 1 }"), "pool 1 discovery.port", "means nothing for endpoints from file"),
    (bare_pool("discovery = { dns = 'a', port = 1, most = 0.5 }"), "pool 1 discovery.most", "expected least (1 s) or more"),
    # routes
    (f"{GATEWAY}{POOL}[[route]]\npool = 'ap' #!\n", "route 1 pool", "'ap': unknown pool; did you mean app?"),
    (f"{GATEWAY}[[route]]\npool = 'app' #!\n", "route 1 pool", "'app': unknown pool; the file has none"),
    (f"{GATEWAY}{POOL}[[route]] #!\n", "route 1 pool", "expected one of pool, redirect and respond, got none"),
    (route("redirect = '/x'"), "route 1 redirect", "expected one of pool, redirect and respond, got pool and redirect"),
    (answer("deadline = '1s'"), "route 2 deadline", "means nothing on a route with respond; leave it out"),
    (answer("strip_prefix = true"), "route 2 strip_prefix", "means nothing on a route with respond"),
    (answer("redirect = { to = 'x' }").replace("respond = 204\n", ""), "route 2 redirect.to", "expected a url or path such as"),
    (answer("redirect = { to = '/{uri}' }").replace("respond = 204\n", ""), "route 2 redirect.to", "in braces, got '{uri}'"),
    (answer("redirect = { to = '/', status = 300 }").replace("respond = 204\n", ""), "route 2 redirect.status",
     "expected 301, 302, 303, 307 or 308, got 300"),
    (route("host = 'shop.example:80'"), "route 1 host", "without a port, got 'shop.example:80'"),
    (route("host = ['a.b', 'A.b']"), "route 1 host", "a host stands here twice"),
    (f"{GATEWAY}{POOL}[[route]]\npath = 'api' #!\npool = 'app'\n", "route 1 path", "expected a path such as \"/api\""),
    (f"{GATEWAY}{POOL}[[route]]\npath = '/a?b' #!\npool = 'app'\n", "route 1 path", "without a query, got '/a?b'"),
    (f"{GATEWAY}{POOL}[[route]]\npath = '/a/../b' #!\npool = 'app'\n", "route 1 path", "expected a path without '..'"),
    (route("strip_prefix = true"), "route 1 strip_prefix", 'expected a path longer than "/"'),
    (route("methods = ['GET', 'get']"), "route 1 methods 2", 'expected "GET" or "HEAD"'),
    (route("headers = { 'X Y' = '1' }"), "route 1 headers.X Y", "expected the name of a header"),
    (route("headers = { X = 1 }"), "route 1 headers.X", "expected true (it is there), false (it is not) or its value, got 1"),
    (route("headers = { X = '1', x = '1' }"), "route 1 headers.x", "stands here twice"),
    (route("canary = { pool = 'app', weight = 0.1 }"), "route 1 canary.pool", "expected another pool than the route's own"),
    (route("canary = { pool = 'b', weight = 0.1 }"), "route 1 canary.pool", "'b': unknown pool; expected app"),
    (route("canary = { pool = 'b' }"), "route 1 canary.weight", "nobody would ever get the canary"),
    (route("canary = { pool = 'b', weight = 1.5 }"), "route 1 canary.weight", "expected a share between 0 and 1"),
    (route("canary = { pool = 'b', weight = 0.1, by = 'client', cookie = 'c' }"), "route 1 canary.cookie", "told apart by client"),
    (route("canary = { weight = 0.1 }"), "route 1 canary.pool", "expected pool, got none"),
    (route("retries = { attempts = 0 }"), "route 1 retries.attempts", "expected a whole number of 1 or more, got 0"),
    (route("retries = { idempotent = true }"), "route 1 retries.idempotent", "is for code; a gateway retries"),
    (route("retries = { budget = { shar = 1 } }"), "route 1 retries.budget.shar", "did you mean share?"),
    (route("deadline = -1"), "route 1 deadline", "not negative, got -1.0"),
    (route("rate_limit = 'often'"), "route 1 rate_limit", 'expected a rate such as "500/s" or "3000/m", got \'often\''),
    (route("rate_limit = { burst = 3 }"), "route 1 rate_limit.rate", "expected rate, got none"),
    (route("rate_limit = { rate = '1/s', key = 'client' }"), "route 1 rate_limit.key", "is for code; say limit_by beside it"),
    (route("rate_limit = { rate = '1/s', store = 'http://a' }"), "route 1 rate_limit.store", "expected a store such as"),
    (route("limit_by = 'client'"), "route 1 limit_by", "means nothing without rate_limit"),
    (route("priority = 'high'"), "route 1 priority", 'expected "critical" or "normal" or "batch" or "sheddable"'),
    (route("adaptive = { initial = 2000 }"), "route 1 adaptive.initial", "expected minimum <= initial <= maximum"),
    (route("edge = 'yes'"), "route 1 edge", "expected true, false or a table such as { max_bytes = … }, got 'yes'"),
    (route("edge = { largest = 0 }"), "route 1 edge.largest", "expected size of 1 B or more, got 0"),
    (route("edge = { max_bytes = '1MiB' }"), "route 1 edge.max_bytes", "all routes share one store; say it in [edge]"),
    (route("edge = { stale = '1s' }"), "route 1 edge.stale", "unknown key"),
    (edge("largest = '1GB'"), "edge.largest", "expected max_bytes (268435456 B) or less, got 1000000000 B"),
    (edge("max_bytes = 0"), "edge.max_bytes", "expected size of 65536 B or more, got 0"),
    (route("request_headers = {}"), "route 1 request_headers", "expected remove, set or add, got none"),
    (route("request_headers = { set = { Connection = 'x' } }"), "route 1 request_headers.set.Connection", "not about framing"),
    (route("response_headers = { add = { A = \"a\\nb\" } }"), "route 1 response_headers.add.A", "printable ASCII"),
    (route("response_headers = { set = { A = '1' }, add = { a = '2' } }"), "route 1 response_headers.add", "a is set already"),
    (f"{GATEWAY}{POOL}{ROUTE}[[route]] #!\npool = 'app'\n", "route 2", "can never be told apart from the route on line 6"),
    (f"{GATEWAY}{POOL}{ROUTE}methods = ['GET', 'PUT']\n[[route]] #!\npool = 'app'\nmethods = 'GET'\n", "route 2",
     "can never be told apart for GET from the route on line 6"),
    (f"{GATEWAY}{POOL}{ROUTE}host = ['a.b', 'c.d']\n[[route]] #!\npool = 'app'\nhost = 'C.d'\n", "route 2",
     "both are for / on C.d; change one of them"),
    (f"{GATEWAY}{POOL}{ROUTE}name = 'x'\n[[route]]\npath = '/a'\npool = 'app'\nname = 'x' #!\n", "route 2 name",
     "the route on line 9 is called 'x' too"),
    # engines
    (f"{GATEWAY}[engine]\nname = 'envoy' #!\n{POOL}{ROUTE}", "engine.name", 'expected "embedded" or "haproxy", got \'envoy\''),
    (f"{GATEWAY}[engine]\nbinary = 'x' #!\n{POOL}{ROUTE}", "engine.binary", "means nothing for the embedded engine"),
    (gateway("http2 = true").replace(" #!", " #!\ntls = { certificate = 'a', key = 'b' }"), "gateway.http2",
     "the engine embedded speaks HTTP/1.1 with clients"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{n}-{row[1]}" for n, row in enumerate(ROWS)])
def test_a_wrong_file_is_one_sentence_with_the_right_line(row):
    text, key, sentence, *line = row
    expected = line[0] if line else next(n for n, each in enumerate(text.splitlines(), 1) if each.endswith("#!"))
    with pytest.raises(GatewayConfigError) as caught:
        read_config(text, "g.toml", environ=ENVIRON)
    (problem,) = caught.value.found
    assert (problem.line, problem.key) == (expected, key)
    assert sentence in problem.text
    assert str(problem).startswith(f"g.toml:{expected}: ")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_are_many_of_them():
    assert len(ROWS) >= 80


def test_all_problems_of_a_file_are_told_at_once_and_by_line():
    text = f"{GATEWAY}processes = 0\n{POOL}pik = 1\ncheck = 3\n{ROUTE}edge = 3\n[[route]]\npool = 'ap'\npath = '/x'\n"
    with pytest.raises(GatewayConfigError) as caught:
        read_config(text, "g.toml", environ={})
    assert [(each.line, each.key) for each in caught.value.found] == [
        (3, "gateway.processes"),
        (7, "pool 1 pik"),
        (8, "pool 1 check"),
        (12, "route 1 edge"),
        (14, "route 2 pool"),
    ]


def test_a_pool_that_is_wrong_is_not_unknown_as_well():
    with pytest.raises(GatewayConfigError) as caught:
        read_config(f"{GATEWAY}{POOL}pik = 1\n{ROUTE}", environ={})
    assert len(caught.value.found) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "expected a file to read"),
        (b"a = 1\nb = '\xff'", "2: expected UTF-8"),
        (b" " * 5_000_000, "bytes at most"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, sentence):
    path = tmp_path / "g.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GatewayConfigError, match=sentence):
        load_config(path)


def test_brackets_without_end_are_refused():
    with pytest.raises(GatewayConfigError, match="expected"):
        read_config("a = " + "[" * 20_000 + "]" * 20_000)
