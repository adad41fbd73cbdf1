"""Policies from a TOML file, and the file read anew while they are at work.

Three rules for a file that people edit while traffic runs. *A bad file changes nothing*: it is judged as a whole,
and what was valid stays in force. *A policy is one object for good*: whoever holds it, decorated functions
included, sees the new settings, and breakers, budgets and counters go on. *What leaves the file goes on working*
as it last was and is marked, because a function somewhere is still decorated with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

from tenfold._core.clock import SYSTEM_CLOCK, Clock
from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub
from tenfold._core.tasks import Tasks
from tenfold._core.units import Duration, duration
from tenfold.resilience.checks import Options
from tenfold.resilience.config_read import ConfigError, Settings, read, unknown
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded, watch
from tenfold.resilience.policy import Policy
from tenfold.resilience.registry import REGISTRY, Registry

_NONE: Final = {field.name: field.default for field in fields(Options)}


class UnknownPolicy(MisuseError, KeyError):
    """No policy of that name stands in the file."""

    __str__ = Exception.__str__


class Policies(Mapping[str, Policy]):
    """The policies of one file by name; made by `load_policies`. Thread-safe."""

    def __init__(
        self,
        path: Path,
        *,
        code: Mapping[str, Mapping[str, Any]],
        registry: Registry[Any],
        clock: Clock,
        hub: Hub,
    ) -> None:
        self.path: Final = path
        self.reloads = 0
        """How often a changed file came into force."""
        self.rejections = 0
        """How often a changed file was wrong."""
        self.problems: tuple[str, ...] = ()
        """What is wrong with the file as it is now; empty where nothing is."""
        self._code = {name: dict(parts) for name, parts in code.items()}
        self._registry = registry
        self._clock = clock
        self._hub = hub
        self._lock = threading.Lock()
        self._watched = False
        self._last: dict[str, Settings] = {}  # of each policy, also those removed
        self._policies: dict[str, Policy] = {}
        self._removed: frozenset[str] = frozenset()
        text = self._text()
        self._digest = self._seen = _digest(text)
        self._check_code()
        settings = self._judge(text)
        for name in self._code.keys() - settings.keys():
            raise ConfigError([f"{self.path}: code adds to [policy.{name}], and the file does not have it"])
        self._apply(settings)
        self._last = settings

    def _check_code(self) -> None:
        for name, parts in self._code.items():
            for key in parts:
                if key not in _NONE:
                    raise ConfigError(
                        [f"{self.path}: code adds to [policy.{name}] {key}: {unknown(key, _NONE, 'key')}"]
                    )

    # Reading them

    def __getitem__(self, name: str) -> Policy:
        try:
            return self._policies[name]
        except KeyError:
            raise UnknownPolicy(
                f"{self.path}: expected the name of one of its policies ({', '.join(self._policies)}), got {name!r}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._policies))

    def __len__(self) -> int:
        return len(self._policies)

    @property
    def removed(self) -> frozenset[str]:
        """Policies that the file does not have any more; they work on with their last settings."""
        return self._removed

    def state(self) -> dict[str, object]:
        """Where the settings are from, what is wrong with the file, and every policy's state; ready for JSON."""
        return {
            "path": str(self.path),
            "digest": self._digest,
            "reloads": self.reloads,
            "rejections": self.rejections,
            "problems": list(self.problems),
            "removed": sorted(self._removed),
            "policies": {name: policy.state() for name, policy in self._policies.copy().items()},
        }

    def __repr__(self) -> str:
        wrong = f" problems={len(self.problems)}" if self.problems else ""
        return (
            f"<Policies {str(self.path)!r} of {', '.join(self._policies)}; "
            f"reloads={self.reloads} rejections={self.rejections}{wrong}>"
        )

    # Reading the file anew

    def reload(self) -> tuple[str, ...]:
        """Read the file now; what changed, one line each. Nothing has to have changed.

        Raises `ConfigError` for a file that is wrong, which changes nothing; it is counted and told to subscribers
        (`ConfigRejected`) just the same.
        """
        with self._lock:
            event = self._reload()
        if event is None:
            return ()
        self._hub.emit(event)
        if isinstance(event, ConfigRejected):
            raise ConfigError(event.problems)
        return event.changes

    def _reload(self) -> ConfigReloaded | ConfigRejected | None:
        """What there is to tell, if anything. Under the lock; events are emitted after it, for handlers are other
        people's code.
        """
        self._seen, text = self._glance()
        try:
            if isinstance(text, ConfigError):
                raise text
            settings = self._judge(text)
            changes = self._apply(settings)
        except ConfigError as exc:
            self.rejections += 1
            self.problems = exc.problems
            return ConfigRejected(str(self.path), exc.problems)
        removed = frozenset(self._policies) - frozenset(settings)
        event = ConfigReloaded(
            str(self.path),
            added=tuple(name for name in settings if name not in self._last),
            removed=tuple(name for name in self._policies if name in removed - self._removed),
            changes=tuple(changes),
        )
        news = bool(changes or self.problems)
        self._last = {**self._last, **settings}
        self._removed, self._digest, self.problems = removed, self._seen, ()
        self.reloads += news
        return event if news else None

    def _apply(self, settings: Mapping[str, Settings]) -> list[str]:
        """Hand every policy what is new for it, or none of them. A policy may refuse what a file cannot know: that
        a plain function is decorated with it, for instance, which nobody can stop.
        """
        made: dict[str, Policy] = {}
        done: list[str] = []
        changes: list[str] = []
        try:
            for name, new in settings.items():
                old = self._last.get(name)
                if old is None:
                    made[name] = self._make(name, new, self._registry, self._hub)
                    changes.append(f"{name}: added")
                    continue
                if name in self._removed:
                    changes.append(f"{name}: back again")
                if old.differs(new):
                    changes += new.changes(name, old)
                    done.append(name)
                    self._reconfigure(name, new)
        except Exception:
            for name in done:
                self._reconfigure(name, self._last[name])
            for policy in made.values():
                self._registry.discard(policy)
            raise
        changes += [f"{name}: removed" for name in self._policies if name not in settings and name not in self._removed]
        self._policies = {**self._policies, **made}
        return changes

    def _reconfigure(self, name: str, settings: Settings) -> None:
        try:
            self._policies[name].reconfigure(**{**_NONE, **settings.options})  # what is not in the file is off
        except MisuseError as exc:
            raise self._refused(name, exc) from exc

    def _glance(self) -> tuple[str, str | ConfigError]:
        """What the file holds now, and a digest that tells it from anything else."""
        try:
            text = self._text()
        except ConfigError as exc:
            return str(exc), exc
        return _digest(text), text

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ConfigError([f"{self.path}: expected UTF-8, got something else: {exc}"]) from exc
        except OSError as exc:
            raise ConfigError([f"{self.path}: expected a file to read, got: {exc.strerror or exc}"]) from exc

    def _judge(self, text: str) -> dict[str, Settings]:
        """The settings of a file all of whose policies can be made."""
        found = read(text, self.path, self._code)
        problems: list[str] = []
        for name, settings in found.items():
            try:
                self._make(name, settings, Registry(), Hub())
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            raise ConfigError(problems)
        return found

    def _make(self, name: str, settings: Settings, registry: Registry[Any], hub: Hub) -> Policy:
        try:
            return Policy(name, registry=registry, clock=self._clock, hub=hub, **settings.options)
        except MisuseError as exc:
            raise self._refused(name, exc) from exc

    def _refused(self, name: str, error: MisuseError) -> ConfigError:
        told = re.match(r"policy(?: '[^']*')?( \w+)?(: .*)", str(error), re.DOTALL)
        about = f"{told[1] or ''}{told[2]}" if told else f": {error}"
        return ConfigError([f"{self.path}: [policy.{name}]{about}"])

    # Watching the file

    @asynccontextmanager
    async def watching(self, interval: Duration = 1.0) -> AsyncIterator[Policies]:
        """Look at the file every ``interval`` (default 1 s) while in the block, and put what changed into force.

        A file that is wrong, or is gone, is counted and told (`ConfigRejected`) once. Raises `MisuseError` for an
        interval of zero and where somebody watches already.
        """
        seconds = duration(interval, "interval")
        if seconds == 0:
            raise MisuseError('interval: expected a duration longer than zero, such as "1s", got 0')
        if self._watched:
            raise MisuseError(f"{self.path}: somebody watches it already; one is enough for the whole process")
        self._watched = True
        try:
            async with Tasks(f"policies of {self.path.name}", limit=1) as tasks:
                tasks.spawn(
                    watch(lambda: self._glance()[0], lambda: self._seen, self._put_into_force, seconds, self._clock),
                    name="watch",
                )
                yield self
        finally:
            self._watched = False

    async def _put_into_force(self) -> None:
        event = await asyncio.to_thread(self._take)
        if event is not None:
            self._hub.emit(event)

    def _take(self) -> ConfigReloaded | ConfigRejected | None:
        with self._lock:
            try:
                return self._reload()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the watch goes on and somebody hears of it
                self.rejections += 1
                self.problems = (f"{self.path}: reading it anew failed: {exc!r}",)
                return ConfigRejected(str(self.path), self.problems)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_policies(
    path: str | PathLike[str],
    *,
    code: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry[Any] = REGISTRY,
    clock: Clock = SYSTEM_CLOCK,
    hub: Hub = EVENTS,
) -> Policies:
    """The policies of a TOML file, one for each table ``[policy.NAME]``::

        [policy.payments]
        deadline = "2s"
        timeout = "500ms"
        idempotent = true
        retry = { attempts = 3 }
        breaker = { ratio = "50%" }
        bulkhead = { places = 50, queue = 100 }     # or just 50
        limit = "100/s"                             # or { rate = "100/s", … }

    A part is a table of its options, its main option alone, or ``true`` for all defaults. ``code`` adds, by policy,
    arguments of `Policy` that a file cannot hold: ``code={"payments": {"fallback": Fallback(call=pending)}}``.

    Raises `ConfigError` for a file that is wrong: unknown keys, wrong types and units, parts that do not go
    together.
    """
    return Policies(Path(path), code=code or {}, registry=registry, clock=clock, hub=hub)
