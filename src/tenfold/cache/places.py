"""Where the server is: at an address, behind Sentinels that know which server is the master now, or in a cluster.

==================================================  ================================================================
URL                                                 meaning
==================================================  ================================================================
``redis://[user:password@]host[:6379][/db]``        this server; also ``rediss://`` (TLS) and ``unix://``
``redis+sentinel://[…@]host[:26379],…/name[/db]``   the master that the Sentinels know by this name
``redis+cluster://[…@]host[:6379],…``               the cluster that these nodes belong to
==================================================  ================================================================

``rediss+sentinel`` and ``rediss+cluster`` do the same over TLS, to the Sentinels as well. User and password are the
servers'; those of Sentinels that want any are ``?sentinel_username=…&sentinel_password=…``. A cluster's URL may say
``?partitions=N`` (see `partitions`). Whatever else stands behind the ``?`` is redis-py's.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from tenfold._core.errors import MisuseError
from tenfold.cache.errors import LevelTwoDown
from tenfold.cache.route import CONNECT_PATIENCE

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

Address = tuple[str, int]

PARTITIONS: Final = 16
MOST_PARTITIONS: Final = 1024
_PORTS: Final = {"sentinel": 26_379, "cluster": 6379}
_EXAMPLES: Final = {
    "sentinel": "redis+sentinel://127.0.0.1:26379,127.0.0.1:26380/mymaster",
    "cluster": "redis+cluster://127.0.0.1:7000,127.0.0.1:7001",
}


class Where(ABC):
    """Knows where the server is, each time a connection is made."""

    @abstractmethod
    async def connection(self) -> AbstractConnection:
        """A connection that is not yet connected. Raises what redis-py raises."""

    @property
    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions by which a connection fails."""

    async def aclose(self) -> None:  # noqa: B027 - most have nothing to close
        """Close whatever is kept open to know where the server is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A URL taken apart. ``base`` is what all its servers share, with ``{}`` for the address."""

    kind: Literal["single", "sentinel", "cluster"]
    shown: str
    base: str = ""
    addresses: tuple[Address, ...] = ()
    master: str = ""
    partitions: int = PARTITIONS
    tls: bool = False
    sentinel_options: tuple[tuple[str, str], ...] = ()

    def at(self, address: Address) -> str:
        """The URL of one server."""
        host, port = address
        return self.base.replace("{}", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 1)


def parsed(url: str) -> Parsed:
    """Raises `MisuseError` for a Sentinel's or a cluster's URL that cannot be read; any other URL is redis-py's."""
    scheme, _, kind = url.partition(":")[0].lower().partition("+")
    if not kind:
        return Parsed(kind="single", shown=without_secrets(url), base=url)
    if scheme not in ("redis", "rediss") or kind not in _PORTS:
        raise MisuseError(
            "redis=: expected a URL that begins with redis://, rediss://, unix://, redis+sentinel://, "
            f"rediss+sentinel://, redis+cluster:// or rediss+cluster://, got {without_secrets(url)!r}"
        )
    try:
        rest = url.partition("://")[2]
        places = re.split("[/?#]", rest, maxsplit=1)[0]
        parts = urlsplit("//all" + rest.removeprefix(places))  # which would take one address only
        user, at, hosts = places.rpartition("@")
        addresses = tuple(_address(one, _PORTS[kind]) for one in hosts.split(","))
        return (_sentinel if kind == "sentinel" else _cluster)(url, scheme, parts, user + at, addresses)
    except ValueError as error:
        raise MisuseError(
            f"redis=: expected a URL such as {_EXAMPLES[kind]}, got {without_secrets(url)!r} ({error})"
        ) from error


class Single(Where):
    """At the address that the URL says."""

    def __init__(self, url: str, credentials: Any = None) -> None:
        try:
            import hiredis
            from redis.asyncio.connection import ConnectionPool
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError as error:
            raise MisuseError(
                "redis=: needs the redis and hiredis packages; install them with `pip install tenfold[redis]`"
            ) from error
        del hiredis
        extra = {} if credentials is None else {"credential_provider": credentials}
        if extra and (not hasattr(credentials, "get_credentials") or "@" in url):
            raise MisuseError(
                f"credentials: expected a redis-py CredentialProvider and no user in the URL, got {credentials!r}"
            )
        self._shown = without_secrets(url)
        try:
            # RESP2: no pushes between the answers, and a subscribed connection answers with plain lists.
            self._factory = ConnectionPool.from_url(
                url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=CONNECT_PATIENCE,
                retry=Retry(NoBackoff(), 0),
                **extra,
            )
        except ValueError as error:
            raise MisuseError(
                f"redis=: expected a URL such as redis://127.0.0.1:6379/0, got {url!r} ({error})"
            ) from error
        self._failures: tuple[type[Exception], ...] = (
            LevelTwoDown,
            RedisError,
            OSError,
            EOFError,
            ValueError,  # how redis-py reads garbage
        )

    def __repr__(self) -> str:
        return self._shown

    async def connection(self) -> AbstractConnection:
        return cast("AbstractConnection", self._factory.make_connection())  # type: ignore[no-untyped-call]

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return self._failures


def _sentinel(url: str, scheme: str, parts: SplitResult, user: str, addresses: tuple[Address, ...]) -> Parsed:
    master, slash, database = parts.path.lstrip("/").partition("/")
    if not master or (slash and not database.isdigit()):
        raise ValueError("the path is the master's name, and a database's number if need be")
    options, rest = _query(parts.query, ("sentinel_username", "sentinel_password"))
    return Parsed(
        kind="sentinel",
        shown=without_secrets(url),
        base=f"{scheme}://{_no_braces(user)}{{}}/{database or 0}{rest}",
        addresses=addresses,
        master=unquote(master),
        tls=scheme == "rediss",
        sentinel_options=tuple((name.removeprefix("sentinel_"), value) for name, value in options.items()),
    )


def _cluster(url: str, scheme: str, parts: SplitResult, user: str, addresses: tuple[Address, ...]) -> Parsed:
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has the one database 0 and no names of masters")
    options, rest = _query(parts.query, ("partitions",))
    partitions = int(options.get("partitions", PARTITIONS))
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"partitions: 1 to {MOST_PARTITIONS}")
    return Parsed(
        kind="cluster",
        shown=without_secrets(url),
        base=f"{scheme}://{_no_braces(user)}{{}}/0{rest}",
        addresses=addresses,
        partitions=partitions,
    )


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, port if parts.port is None else parts.port


def _query(text: str, own: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """Our own options, and what is left of the query with its question mark."""
    pairs = parse_qsl(text, keep_blank_values=True)
    rest = urlencode([pair for pair in pairs if pair[0] not in own])
    return {name: value for name, value in pairs if name in own}, f"?{rest}" if rest else ""


def _no_braces(user: str) -> str:
    return user.replace("{", "%7B").replace("}", "%7D")


def without_secrets(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}".partition("?")[0]
