"""The sockets that a gateway listens on: bound once, held by one process, given to those that accept.

Theory. N processes can share an address in two ways, and both were measured (64 keep-alive connections opened at once,
two processes with epoll, six times):

- *One socket that all inherit.* All processes are woken, and the first one awake accepts until nobody waits: 0 and 64
  connections in five runs of six, 18 and 46 in the other. Keep-alive makes that last, so the second core idles.
- *A socket each with SO_REUSEPORT* (Linux 3.9): the kernel deals new connections out by a hash of the four addresses
  and ports: 24 to 40 each way, 30 and 34 mostly, a binomial with p = 1/2.

So each process has a socket of its own. The price of SO_REUSEPORT is that the hash knows nothing of who is alive: where
the process that dies is the only one that holds its socket, all that wait in its queue are reset, and the port of an
address with port 0 may be lost; where others hold it too, the queue lives on and nobody accepts from it. Hence:
the supervisor binds all sockets and keeps them; *every* worker inherits all of them and accepts on those it has
been dealt (`deal`). When a worker dies its sockets are dealt to the living at once, and nobody is reset or waits
for the next process to start. The same table serves a hot restart with another number of processes: no socket that is
inherited is closed as long as its address is configured, because closing it would reset those in its queue.

Unix sockets have no such option: all accept on one, and so they do on a TCP socket that came alone from
systemd, at the cost above.

SO_REUSEPORT also lets a second gateway, started by mistake, take half of the requests of the first; so an address is
bound once without it, to be refused where somebody listens, before it is bound with it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Address

BACKLOG: Final = 1024
_PROBE: Final = 1.0

Bound = tuple[Address, socket.socket]
"""A socket, and the address it listens on, with the port that it has."""


class Sockets:
    """The listening sockets of ``addresses`` for so many ``processes``: those of ``inherited`` that are for them, and
    new ones. Sockets of ``inherited`` that no address asks for are closed, and named in ``unclaimed``.

    Owns all of them: `close` closes them and removes the files of unix sockets, unless they were `handed_over`.

    Raises `OSError` where an address cannot be listened on.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        processes: int,
        inherited: Iterable[socket.socket] = (),
        *,
        admin: Address | None = None,
    ) -> None:
        self.groups: tuple[tuple[Bound, ...], ...] = ()
        """The sockets by address, in the order of ``addresses``."""
        self.admin: Bound | None = None
        """The socket of the admin API, which is one process's; bound where ``admin`` says."""
        self.handed_over = False
        """Whether another process goes on listening on them."""
        self._files: dict[str, tuple[int, int]] = {}
        left = list(inherited)
        count = len(addresses)
        if admin is not None:
            addresses = [*addresses, admin]
        claimed = [self._claim(each, left) for each in addresses]
        for number, each in enumerate(addresses):
            if not claimed[number] and not each.path and each.port == 0:
                claimed[number] = self._claim_any_port(each, left)
        self.unclaimed: Final = tuple(str(_name(each)) for each in left)
        for made in left:
            made.close()
        groups: list[tuple[Bound, ...]] = []
        try:
            for address, found in zip(addresses, claimed, strict=True):
                groups.append(tuple(self._open(address, processes if len(groups) < count else 1, found)))
        finally:
            self.groups = tuple(groups[:count])
            self.admin = groups[count][0] if len(groups) > count else None
            if self.admin is not None and self.admin[0].path:
                os.chmod(self.admin[0].path, 0o600)
            if len(groups) < len(addresses):
                for several in claimed[len(groups) :]:
                    for made in several:
                        made.close()
                self.close()

    @staticmethod
    def _claim(address: Address, left: list[socket.socket]) -> list[socket.socket]:
        if not address.path and address.port == 0:
            return []
        wanted: Any = address.path or _resolved(address)[-1][:2]
        found = [each for each in left if _is(each, wanted)]
        left[:] = [each for each in left if each not in found]
        return found

    @staticmethod
    def _claim_any_port(address: Address, left: list[socket.socket]) -> list[socket.socket]:
        """The sockets of one port of that host, which an earlier process was given by the system."""
        host = _resolved(address)[-1][0]
        port = next((_name(each)[1] for each in left if each.family != socket.AF_UNIX and _name(each)[0] == host), None)
        return [] if port is None else Sockets._claim(Address(address.host, port), left)

    def _open(self, address: Address, processes: int, found: list[socket.socket]) -> Iterable[Bound]:
        if address.path:
            made = found[0] if found else _bound_unix(address)
            for surplus in found[1:]:
                surplus.close()
            status = os.stat(address.path)
            self._files[address.path] = (status.st_dev, status.st_ino)
            return [(address, made)]
        several = processes > 1 and hasattr(socket, "SO_REUSEPORT")
        if not found:
            if several:
                with _bound_tcp(address) as probe:
                    address = Address(address.host, probe.getsockname()[1])
            found.append(_listening(_bound_tcp(address, reuse_port=several)))
        chosen = Address(address.host, found[0].getsockname()[1])
        if several and found[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            try:
                while len(found) < processes:
                    found.append(_listening(_bound_tcp(chosen, reuse_port=True)))
            except OSError:
                for made in found:
                    made.close()
                raise
        return [(chosen, made) for made in found]

    @property
    def bound(self) -> tuple[Bound, ...]:
        """All of them."""
        return tuple(each for group in self.groups for each in group)

    @property
    def held(self) -> list[socket.socket]:
        """All that another process needs to take over."""
        return [made for _, made in (*self.bound, *([] if self.admin is None else [self.admin]))]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where they listen, with the ports that the system chose."""
        return tuple(group[0][0] for group in self.groups)

    def deal(self, workers: Sequence[int]) -> dict[int, list[int]]:
        """Which of ``bound``, by index, each of these living workers accepts on: every socket has somebody, and every
        worker has a socket of each address.
        """
        dealt: dict[int, list[int]] = {each: [] for each in workers}
        first = 0
        for group in self.groups if workers else ():
            for turn in range(max(len(group), len(workers))):
                dealt[workers[turn % len(workers)]].append(first + turn % len(group))
            first += len(group)
        return dealt

    def release(self) -> None:
        """Close them here; others may hold them still. May be called twice."""
        for each in self.held:
            each.close()

    def close(self) -> None:
        """Close them and remove the files of unix sockets, unless they are another's by now."""
        self.release()
        if self.handed_over:
            return
        for path, identity in self._files.items():
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            if (status.st_dev, status.st_ino) == identity:
                os.unlink(path)

    def __repr__(self) -> str:
        return f"<Sockets {', '.join(map(str, self.addresses))}; {len(self.bound)} sockets>"


def _name(made: socket.socket) -> Any:
    return made.getsockname() if made.family != socket.AF_UNIX else str(made.getsockname())


def _is(made: socket.socket, wanted: Any) -> bool:
    name = _name(made)
    if isinstance(wanted, str) or isinstance(name, str):
        return bool(name == wanted)
    # systemd's `ListenStream=80` is [::]:80, which takes IPv4 as well
    return bool(name[:2] == wanted or (name[0] == "::" and wanted == ("0.0.0.0", name[1])))


def _resolved(address: Address) -> Any:
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _bound_tcp(address: Address, *, reuse_port: bool = False) -> socket.socket:
    family, kind, protocol, _, where = _resolved(address)
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bound(made, where, address)


def _bound_unix(address: Address) -> socket.socket:
    try:
        found = os.stat(address.path)
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISSOCK(found.st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE)
            try:
                probe.connect(address.path)
            except ConnectionRefusedError:
                os.unlink(address.path)  # an earlier process left it behind
            else:
                raise OSError(errno.EADDRINUSE, f"gateway: cannot listen on {address}: another process does")
    return _listening(_bound(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.path, address))


def _bound(made: socket.socket, where: Any, address: Address) -> socket.socket:
    try:
        made.setblocking(False)
        made.bind(where)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"gateway: cannot listen on {address}: {error.strerror}") from error
    return made


def _listening(made: socket.socket) -> socket.socket:
    try:
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def taken(descriptors: Iterable[int]) -> list[socket.socket]:
    """Sockets of descriptors that this process was given.

    Raises `MisuseError` for one that is no stream socket that listens; the others are closed then.
    """
    found: list[socket.socket] = []
    try:
        for each in descriptors:
            try:
                made = socket.socket(fileno=each)
            except OSError as error:
                raise MisuseError(
                    f"inherited descriptor {each}: expected a socket that listens, got {error.strerror}"
                ) from error
            found.append(made)
            listens = made.type == socket.SOCK_STREAM and made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if not listens:
                raise MisuseError(f"inherited descriptor {each}: expected a stream socket that listens, got {made!r}")
            made.setblocking(False)
            made.set_inheritable(False)
    except MisuseError:
        for made in found:
            made.close()
        raise
    return found
