"""What a scenario file says: `journey`, `target`; and how it is loaded and refused.

A scenario is a Python module. Its journeys are found among its names, so they may be imported from elsewhere;
each process of a run imports the module anew.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import ipaddress
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, overload
from urllib.parse import urlsplit

from tenfold._core.errors import MisuseError

if TYPE_CHECKING:
    from tenfold.load.user import User

JourneyFunction = Callable[["User"], Coroutine[Any, Any, None]]
_TARGET: Final = "__tenfold_target__"


@dataclass(frozen=True, slots=True)
class Journey:
    """A coroutine function that one arrival of the schedule runs, and how often it is chosen."""

    function: JourneyFunction
    name: str
    weight: float
    where: str

    def __call__(self, user: User) -> Coroutine[Any, Any, None]:
        return self.function(user)


@dataclass(frozen=True, slots=True)
class Target:
    """What `target` was told: the base URL first."""

    urls: tuple[str, ...]
    verify: bool
    where: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario that was read and found to be in order."""

    source: str
    """Path of the file, or name of the module."""
    is_file: bool
    journeys: tuple[Journey, ...]
    target: str
    """Base URL without a trailing slash."""
    hosts: frozenset[str]
    """Hosts that may be asked besides loopback."""
    verify: bool = True

    @property
    def name(self) -> str:
        """The file's stem or the module's last part."""
        return Path(self.source).stem if self.is_file else self.source.rpartition(".")[2]

    def allows(self, url: str) -> bool:
        """Whether requests may go there: loopback, or a host that the file names."""
        host = urlsplit(url).hostname or ""
        return is_loopback(host) or host in self.hosts

    def at(self, url: str) -> Scenario:
        """The same scenario against another base URL. Raises `MisuseError` where that is not allowed."""
        base = _base(url, "target")
        if not self.allows(base):
            named = ", ".join(sorted(self.hosts)) or "none"
            raise MisuseError(
                f"target: expected loopback or a host that {self.source} names with target() "
                f"(named: {named}), "
                f'got {urlsplit(base).hostname!r}; add target("{base}") to the file if you may load it'
            )
        return replace(self, target=base)

    def __repr__(self) -> str:
        return f"Scenario({self.name!r}, {len(self.journeys)} journeys, target={self.target!r})"


@overload
def journey(function: JourneyFunction, *, weight: float = 1.0, name: str | None = None) -> Journey: ...
@overload
def journey(*, weight: float = 1.0, name: str | None = None) -> Callable[[JourneyFunction], Journey]: ...
def journey(
    function: JourneyFunction | None = None, *, weight: float = 1.0, name: str | None = None
) -> Journey | Callable[[JourneyFunction], Journey]:
    """``@journey`` or ``@journey(weight=35)`` above ``async def name(user)``. Weights are relative to each
    other.

    Raises `MisuseError` for a weight that is not above 0 and for anything but a coroutine function of one
    argument.
    """
    where = _caller()
    if type(weight) not in (int, float) or not 0 < weight < float("inf"):
        raise MisuseError(f"{where}: journey: expected a weight above 0, got {weight!r}")

    def made(wrapped: JourneyFunction) -> Journey:
        if not inspect.iscoroutinefunction(wrapped):
            raise MisuseError(f"{where}: journey: expected an async def with one argument, got {wrapped!r}")
        if len(inspect.signature(wrapped).parameters) != 1:
            raise MisuseError(f"{where}: journey {wrapped.__name__}: expected one argument, the user")
        return Journey(wrapped, name or wrapped.__name__, float(weight), where)

    return made if function is None else made(function)


def target(url: str, *more: str, verify: bool = True) -> None:
    """Name the base URL of the scenario, and further hosts that its journeys may ask.

    Call it at the top of the file. ``verify=False`` accepts any TLS certificate. Raises `MisuseError` for
    what is no http or https URL.
    """
    where = _caller()
    urls = tuple(_base(each, f"{where}: target") for each in (url, *more))
    names = sys._getframe(1).f_globals
    known: Target | None = names.get(_TARGET)
    names[_TARGET] = Target((*(known.urls if known else ()), *urls), verify, known.where if known else where)


def load_scenario(source: str | Path | ModuleType, target: str | None = None) -> Scenario:
    """Read a scenario from a file, a dotted module name or a module.

    ``target`` overrides the base URL of the file. Raises `MisuseError` with file and line for a syntax error,
    an exception at import, no journeys, no target, or a target that is neither loopback nor named in the
    file.
    """
    if isinstance(source, ModuleType):
        module, name, is_file = source, source.__name__, False
        if source.__name__ == "__main__" or getattr(source, "__spec__", None) is None:
            name, is_file = str(Path(str(source.__file__)).resolve()), True
    else:
        text = str(source)
        is_file = isinstance(source, Path) or text.endswith(".py") or "/" in text
        name = str(Path(text).resolve()) if is_file else text
        module = _import_file(Path(name)) if is_file else _import_name(name)
    journeys = tuple(_journeys(module))
    if not journeys:
        raise MisuseError(f"{name}:1: expected at least one @journey(weight=…) async def, got none")
    said: Target | None = getattr(module, _TARGET, None)
    if said is None and target is None:
        raise MisuseError(f'{name}:1: expected target("http://…") in the file or a target from the caller, got neither')
    hosts = frozenset(urlsplit(url).hostname or "" for url in said.urls) if said else frozenset()
    made = Scenario(name, is_file, journeys, said.urls[0] if said else "", hosts, said.verify if said else True)
    return made.at(target) if target is not None else made


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by name or by number."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _journeys(module: ModuleType) -> Iterator[Journey]:
    seen: set[str] = set()
    for value in vars(module).values():
        if isinstance(value, Journey):
            if value.name in seen:
                raise MisuseError(f"{value.where}: journey: expected names that differ, got {value.name!r} twice")
            seen.add(value.name)
            yield value


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MisuseError(f"scenario: expected a Python file, found none at {path}")
    name = f"tenfold_scenario_{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MisuseError(f"scenario: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent)
    sys.modules[name] = module
    # As python FILE does: neighbours of the file can be imported.
    sys.path.insert(0, folder)
    try:
        _guarded(lambda: spec.loader.exec_module(module) if spec.loader else None, str(path))
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return module


def _import_name(name: str) -> ModuleType:
    def find() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise MisuseError(
                    f"scenario: expected a Python file or a module that can be imported, got {name!r}"
                ) from None
            raise

    found: ModuleType = _guarded(find, name)
    return found


def _guarded(action: Callable[[], Any], source: str) -> Any:
    try:
        return action()
    except MisuseError:
        raise
    except SyntaxError as error:
        raise MisuseError(f"{error.filename or source}:{error.lineno or 1}: syntax error: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == source]
        line = (own or frames)[-1].lineno
        raise MisuseError(f"{source}:{line}: {type(error).__name__} at import: {error}") from error


def _base(url: str, name: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError):
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise MisuseError(f'{name}: expected a URL such as "http://127.0.0.1:8000", got {url!r}')
    return url.rstrip("/")


def _caller() -> str:
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
