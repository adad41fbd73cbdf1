"""Endpoints as HAProxy's servers: names, weights, options. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from tenfold.balance.endpoint import Endpoint
from tenfold.gateway.config import Pool
from tenfold.gateway.haproxy.quote import millis, word

WEIGHT_MAX: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_EVEN: Final = ("round_robin", "random")
"""Picks that do not look at weights."""


@dataclass(slots=True)
class Override:
    """What an administrator has said of an endpoint; it outlives reloads."""

    weight: float | None = None
    state: str = "ready"
    """``"ready"``, ``"drain"`` or ``"maint"``."""


Overrides = Mapping[tuple[str, str], Override]


@dataclass(frozen=True, slots=True)
class Server:
    """A ``server`` line: ``options`` are the words after the address that ``add server`` takes as well."""

    name: str
    id: str
    address: str
    weight: int
    state: str
    options: tuple[str, ...] = field(default=())
    numeric: bool = True
    """Whether the address needs no look-up, which HAProxy does at the start only."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What cannot be changed while it runs."""
        return self.name, self.address, self.options

    def line(self) -> str:
        """For the file. Who drains has no weight there, so that a reload gives them nothing."""
        weight = 0 if self.state == "drain" else self.weight
        words = ["server", self.name, self.address, "weight", str(weight), *self.options]
        if not self.numeric:
            words += ["init-addr", "last,libc,none"]
        return " ".join([*words, "disabled"] if self.state == "maint" else words)


def names(ids: Iterable[str]) -> dict[str, str]:
    """HAProxy's name of each endpoint: its id where that can be one."""
    return {
        id: id if _NAME.fullmatch(id) else "x-" + hashlib.blake2b(id.encode(), digest_size=12).hexdigest()
        for id in sorted(ids)
    }


def servers(pool: Pool, endpoints: Sequence[Endpoint], overrides: Overrides, directory: str) -> tuple[Server, ...]:
    """The servers of a pool."""
    named = names(endpoint.id for endpoint in endpoints)
    declared = {}
    for each in endpoints:
        override = overrides.get((pool.name, each.id))
        weight = each.weight if override is None or override.weight is None else override.weight
        declared[each.id] = float(bool(weight)) if pool.pick.name in _EVEN else float(weight)
    weights = scaled(declared)
    taken: set[int] = set()
    found = []
    for each in endpoints:
        override = overrides.get((pool.name, each.id))
        address, numeric = _address(each.url)
        options = ("id", str(_number(each.id, taken)), *_options(pool, each, directory))
        found.append(
            Server(named[each.id], each.id, address, weights[each.id],
                   "ready" if override is None else override.state, options, numeric)
        )  # fmt: skip
    return tuple(found)


def scaled(weights: Mapping[str, float]) -> dict[str, int]:
    """Weights as whole numbers up to 256, in proportion; who has some keeps at least 1."""
    most = max(weights.values(), default=0.0)
    whole = all(value == int(value) <= WEIGHT_MAX for value in weights.values())
    factor = 1.0 if whole else WEIGHT_MAX / most
    return {id: max(1, round(value * factor)) if value else 0 for id, value in weights.items()}


def _number(id: str, taken: set[int]) -> int:
    """Consistent hashing goes by this number, so it comes of the id and not of the place in the list."""
    number = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=4).digest(), "big") % 2**31 or 1
    while number in taken:
        number = number % (2**31 - 1) + 1
    taken.add(number)
    return number


def _address(url: str) -> tuple[str, bool]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return word(f"unix@{parts.path}"), True
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return word(f"{host}:{port}"), False
    return f"ipv{version}@{host}:{port}" if version == 6 else f"{host}:{port}", True


def _options(pool: Pool, endpoint: Endpoint, directory: str) -> list[str]:
    found = []
    check = pool.check
    if check is not None:
        found += ["check", "inter", millis(float(check.interval)), "fall", str(check.fall), "rise", str(check.rise)]
        if pool.ejection is not None and pool.ejection.consecutive is not None:
            found += ["observe", "layer7", "error-limit", str(pool.ejection.consecutive), "on-error", "mark-down"]
    if pool.slow_start is not None:
        found += ["slowstart", millis(float(pool.slow_start.window))]
    if pool.max_in_flight is not None:
        found += ["maxconn", str(pool.max_in_flight)]
    found += ["pool-max-conn", str(pool.idle_max), "pool-purge-delay", millis(pool.idle)]
    if endpoint.url.startswith("https:"):
        found += _tls(pool, endpoint, directory)
    return found


def _tls(pool: Pool, endpoint: Endpoint, directory: str) -> list[str]:
    options = pool.tls
    host = (None if options is None else options.name) or urlsplit(endpoint.url).hostname or ""
    found = ["ssl"]
    if options is not None and not options.verify:
        found += ["verify", "none"]
    else:
        ca = None if options is None else options.ca
        found += ["verify", "required", "ca-file", "@system-ca" if ca is None else word(ca), "verifyhost", host]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found += ["sni", f"str({host})"]
        if pool.check is not None:
            found += ["check-sni", host]
    if options is not None and options.certificate is not None:
        found += ["crt", f"{directory}/pool-{pool.name}.pem"]
    return found
