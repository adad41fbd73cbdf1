"""A configuration as the text of an ``haproxy.cfg``. Pure: the same in, the same out.

What costs nothing where it is not asked for is not there: no rule, no variable and no capture is written that the
configuration does not need, because HAProxy pays for each of them with every request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tenfold.balance.checks import HttpCheck
from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.config import Config, Pool
from tenfold.gateway.engine import problem
from tenfold.gateway.haproxy import faults
from tenfold.gateway.haproxy.logs import logging_rules
from tenfold.gateway.haproxy.quote import argument, literal, millis, word
from tenfold.gateway.haproxy.rules import Rules, changed
from tenfold.gateway.haproxy.servers import Overrides, servers
from tenfold.resilience.ratelimit import RateLimit

IDEMPOTENT: Final = "GET HEAD OPTIONS PUT DELETE TRACE"
_BALANCE: Final = {
    "round_robin": "roundrobin",
    "weighted_round_robin": "roundrobin",
    "random": "random(1)",
    "weighted_random": "random(1)",
    "least_request": "leastconn",
    "p2c": "random(2)",
}
_IPV4: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where it runs: a folder of its own, and the sockets that are open already, one for each address."""

    directory: str
    sockets: tuple[int, ...]


def render(config: Config, endpoints: Mapping[str, Sequence[Endpoint]], overrides: Overrides, place: Place) -> str:
    """The text of the file. ``endpoints`` are the present ones of each pool."""
    sections = [
        ("global", _global(config, place)),
        ("defaults", _defaults(config)),
        ("frontend in", _frontend(config, place)),
    ]
    sections += [
        (f"backend pool.{pool.name}", _backend(config, pool, endpoints[pool.name], overrides, place))
        for pool in config.pools
    ]
    sections += [
        (f"backend limit.{route.name}", _table(route.rate_limit)) for route in config.routes if route.rate_limit
    ]
    ttls = sorted({route.edge.ttl for route in config.routes if route.edge is not None})
    sections += [(f"cache {_cache(ttl)}", _store(config, ttl)) for ttl in ttls]
    return "\n\n".join("\n  ".join([name, *lines]) for name, lines in sections) + "\n"


def _global(config: Config, place: Place) -> Iterator[str]:
    gateway = config.gateway
    yield f"nbthread {gateway.processes}"
    yield f"hard-stop-after {millis(gateway.drain_timeout)}"
    yield f"stats socket unix@{place.directory}/stats.sock mode 600 level admin"
    yield "stats timeout 30s"
    if any(pool.check is not None for pool in config.pools):
        yield f"server-state-file {place.directory}/servers.state"
    if (
        gateway.header_max != 32 * 1024
    ):  # at the default HAProxy's own 16 KiB, because larger ones cost a fifth more CPU
        yield f"tune.bufsize {gateway.header_max + 1024}"
    if gateway.headers_max > 101:
        yield f"tune.http.maxhdr {min(gateway.headers_max, 32767)}"
    if gateway.access_log is not None:
        yield "log stdout len 8192 format raw local0 err"  # HAProxy's own messages there are warnings at most


def _defaults(config: Config) -> Iterator[str]:
    gateway = config.gateway
    yield "mode http"
    yield f"timeout http-request {millis(gateway.header_timeout)}"
    yield f"timeout http-keep-alive {millis(gateway.idle_timeout)}"
    yield f"timeout client {millis(max(gateway.body_timeout, gateway.write_timeout))}"
    yield f"timeout tunnel {millis(gateway.tunnel_timeout)}"
    yield "timeout connect 2s"
    yield "timeout server 60s"
    if any(pool.check is not None for pool in config.pools):
        yield "load-server-state-from-file global"
    yield "option idle-close-on-response"
    yield "option dontlognull"
    yield from faults.of_all(config)


def _frontend(config: Config, place: Place) -> Iterator[str]:
    gateway = config.gateway
    unix = any(address.path for address in gateway.listen)
    for address, number in zip(gateway.listen, place.sockets, strict=True):
        yield f"bind fd@{number}" + ("" if address.path else _bound(config, place))
    yield f"maxconn {gateway.connections}"
    client = "var(txn.client)" if gateway.trusted or gateway.access_log is not None else "src"
    rules = Rules(config, client)
    lines: list[str] = [] if gateway.access_log is None else list(logging_rules(config))
    trusted = _trusting(config, rules, lines)
    lines += rules.choosing()
    if gateway.access_log is not None and rules.all is not None:
        lines.append(f"http-request set-var(txn.route) str({rules.all.name})")
    for route in config.routes:
        lines += rules.acting(route)
    lines += _forwarding(config, rules, trusted, unix)
    retried = [route for route in config.routes if route.retries is not None and route.retries.attempts > 1]
    if retried:
        never = [rules.of(route) for route in config.routes if route.pool is not None and route not in retried]
        lines += [f"http-request disable-l7-retry if {mine}" for mine in never]
        lines.append(f"http-request disable-l7-retry if !{rules.acl(f'method {IDEMPOTENT}')}")
    for route in config.routes:
        if route.edge is not None:
            name, mine = _cache(route.edge.ttl), rules.of(route)
            lines.append(f"http-request cache-use {name}{rules.iff(mine)}")
            kept = [] if route.edge.ttl else [rules.acl("res.hdr(cache-control) -m found", "res.hdr(expires) -m found")]
            cookie = "!" + rules.acl("res.hdr(set-cookie) -m found")
            lines.append(f"http-response cache-store {name}{rules.iff(mine, *kept, cookie)}")
        if route.pool is not None:
            lines += changed("http-response", route.response_headers, rules.iff(rules.of(route)))
    lines += rules.going()
    yield from rules.acls
    yield from lines


def _bound(config: Config, place: Place) -> str:
    gateway = config.gateway
    found = " accept-proxy" if gateway.proxy_protocol else ""
    if gateway.tls:
        found += f" ssl crt-list {place.directory}/certificates ssl-min-ver TLSv{gateway.tls_least}"
        found += f" alpn {'h2,' if gateway.http2 else ''}http/1.1"
    return found


def _trusting(config: Config, rules: Rules, lines: list[str]) -> str:
    """The condition that the peer is a trusted hop; ``""`` where nobody is. Finds the client behind such hops."""
    gateway = config.gateway
    if rules.client != "src":
        lines.append("http-request set-var(txn.client) src")
    if not gateway.trusted or not gateway.trusted_hops:
        return ""
    networks = " ".join(map(str, gateway.trusted))
    for hop in range(1, gateway.trusted_hops + 1):
        said = f"req.hdr_ip(x-forwarded-for,-{hop})"
        known = rules.acl(f"var(txn.client) -m ip {networks}")
        lines.append(f"http-request set-var(txn.client) {said} if {known} {rules.acl(f'{said} -m found')}")
    return rules.acl(f"src {networks}")


def _forwarding(config: Config, rules: Rules, trusted: str, unix: bool) -> Iterator[str]:
    """What backends are told of the client. What came is worth as much as the hop that said it."""
    gateway = config.gateway
    scheme = "%[ssl_fc,iif(https,http)]" if unix and gateway.tls else "https" if gateway.tls else "http"
    stranger = f" if !{trusted}" if trusted else ""
    first = " if { src -m found }" if unix else ""
    plain = _plain(config)
    if plain:
        odd = rules.acl(f"req.hdr(host) -m sub {word(chr(34))} {word(chr(92))}")
        yield rules.refuse(faults.HOST, odd)  # it would end the quotes
        said = f'proto={scheme};host="%[req.hdr(host)]";for=%[src]'
        yield f"http-request set-header Forwarded {word(said)}"
    for name in ("X-Real-IP",) if plain else ("Forwarded", "X-Real-IP"):
        yield f"http-request del-header {name}{stranger}"
    stripped = any(route.strip_prefix for route in config.routes)  # whose X-Forwarded-Prefix is our own
    said = "^x-forwarded-(for|host|proto|port|ssl|scheme)$ -m reg" if stripped else "x-forwarded- -m beg"
    yield f"http-request del-header {said}{stranger}"
    if gateway.forwarded in ("both", "x-forwarded"):
        for name, value in (("Proto", scheme), ("Host", "%[req.hdr(host)]")):
            there = f" if !{rules.acl(f'req.hdr_cnt(x-forwarded-{name.lower()}) gt 0')}" if trusted else ""
            yield f"http-request add-header X-Forwarded-{name} {value}{there}"
        yield f"http-request add-header X-Forwarded-For %[src]{first}"
    identity = word(gateway.request_id)
    if trusted or gateway.access_log is not None:
        yield "unique-id-format %[uuid()]"
        came = word(f"req.fhdr({argument(gateway.request_id)})")
        held = rules.acl(f"{came} -m reg {word('^[A-Za-z0-9._:/+=@-]{1,128}$')}")
        unless = f" if !{trusted} or !{held}" if trusted else ""
        yield f"http-request set-header {identity} %[unique-id]{unless}"
    else:
        yield f"http-request set-header {identity} %[uuid()]"


def _plain(config: Config) -> bool:
    """Whether all that ``Forwarded`` can say is an IPv4 address, in one value of our own: a rule writes that for less
    than half of what HAProxy's ``option forwarded`` costs, which is a tenth of a request.
    """
    gateway = config.gateway
    return (
        gateway.forwarded in ("both", "forwarded")
        and not gateway.trusted
        and not gateway.proxy_protocol
        and all(_IPV4.fullmatch(address.host or "") for address in gateway.listen)
    )


def _backend(
    config: Config, pool: Pool, endpoints: Sequence[Endpoint], overrides: Overrides, place: Place
) -> Iterator[str]:
    yield f"timeout connect {millis(pool.connect_timeout)}"
    yield f"timeout server {millis(max(pool.first_byte_timeout, pool.body_timeout))}"
    if pool.max_in_flight is not None:
        yield f"timeout queue {millis(pool.queue_timeout)}"
        full = "{ be_conn_free le 0 } { queue ge " + str(pool.queue) + " }"
        yield faults.refuse(problem.QUEUE_FULL, faults.told(problem.QUEUE_FULL, config, pool), full)
    yield from _balance(config, pool)
    mine = [r for r in config.routes if r.pool == pool.name or (r.canary is not None and r.canary.pool == pool.name)]
    attempts = max((r.retries.attempts for r in mine if r.retries is not None), default=1)
    yield f"retries {max(1, attempts - 1)}"
    yield "option redispatch 1"
    if attempts > 1:
        yield "retry-on conn-failure empty-response"
    yield f"http-reuse {'safe' if pool.idle_max else 'never'}"
    yield from faults.of_pool(config, pool, mine)
    for route in mine:
        if route.deadline is not None and faults.deadlined(route, pool):
            name = f" if {{ var(txn.route) -m str {route.name} }}" if Rules(config, "src").all is None else ""
            yield f"http-request set-timeout server {millis(route.deadline)}{name}"
            yield f"http-request set-var(txn.late) {faults.late(config, route)}{name}"
    if config.gateway.forwarded in ("both", "forwarded") and not _plain(config):
        yield "option forwarded proto host for"
    if not pool.preserve_host and endpoints:
        yield f"http-request set-header Host {word(literal(urlsplit(endpoints[0].url).netloc))}"
    if pool.check is not None:
        yield f"timeout check {millis(float(pool.check.timeout))}"
        if isinstance(pool.check, HttpCheck):
            host = pool.check.host or (urlsplit(endpoints[0].url).netloc if endpoints else "") or "localhost"
            yield "option httpchk"
            yield f"http-check send meth GET uri {word(pool.check.path)} ver HTTP/1.1 hdr Host {word(literal(host))}"
            yield f"http-check expect status {_expected(pool.check)}"
    for server in servers(pool, endpoints, overrides, place.directory):
        yield server.line()


def _balance(config: Config, pool: Pool) -> Iterator[str]:
    known = _BALANCE.get(pool.pick.name)
    if known is not None:
        yield f"balance {known}"
        return
    rules = Rules(config, "var(txn.client)" if config.gateway.trusted or config.gateway.access_log else "src")
    selector = pool.pick.key if pool.pick.name == "ring_hash" else "client"
    yield f"http-request set-var(txn.key) {word(rules.client)}"
    if selector != "client":
        found = word(rules.selected(selector))
        yield f"http-request set-var(txn.key) {found} if {{ {found} -m found }}"
    yield "balance hash var(txn.key)"
    yield "hash-type consistent sdbm avalanche"
    bound = pool.pick.parameters.get("bound")
    if bound is not None:
        yield f"hash-balance-factor {min(65535, max(101, round(float(bound) * 100)))}"


def _expected(check: HttpCheck) -> str:
    expect = check.expect
    if isinstance(expect, range):
        return f"{expect.start}-{expect.stop - 1}"
    return ",".join(str(status) for status in range(100, 600) if status in expect)


def _table(limit: RateLimit) -> Iterator[str]:
    window = millis(float(limit.burst or 1) / float(limit.rate))
    yield f"stick-table type string len 128 size {limit.max_keys} expire {window} store gpc0_rate({window})"


def _cache(ttl: float) -> str:
    return f"edge-{round(ttl * 1000)}"


def _store(config: Config, ttl: float) -> Iterator[str]:
    whole = min(4095, max(1, config.edge.max_bytes // 2**20))
    yield f"total-max-size {whole}"
    yield f"max-object-size {max(1, min(config.edge.largest, whole * 2**20 // 2 - 1))}"
    yield f"max-age {max(1, round(ttl)) if ttl else 3600}"
    yield "process-vary on"
