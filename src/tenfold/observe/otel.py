"""Policies, caches and balancers for OpenTelemetry: observable instruments, which read plain counters when collected.

An instrument is made once for each metric of the table and asks its callback at each collection. Two things follow
from how OpenTelemetry does this, and are seen to here:

- A second instrument of the same name is the first one, and the callbacks it was given are *silently dropped*. So
  instruments are made once a provider, and whoever is registered later is shown by those that are there.
- There is one callback for each metric and none for the collection, while a snapshot of a cache goes through its
  entries. So a snapshot serves each metric once: the first that asks again begins the next collection. All numbers of
  a collection then belong together, too.

Nobody is kept alive between collections: of what was looked at only names and numbers are held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from tenfold import __version__
from tenfold._core.errors import MisuseError
from tenfold.observe.balancers import Balances, balancer_group
from tenfold.observe.caches import Counts, cache_group
from tenfold.observe.databases import ShowsState, database_group
from tenfold.observe.outboxes import outbox_group
from tenfold.observe.policies import Shows, policy_groups
from tenfold.observe.table import Family, Group, Owner
from tenfold.resilience.registry import REGISTRY

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider, Observation


def instrument_caches(caches: Iterable[Counts], *, meter_provider: MeterProvider | None = None) -> None:
    """Show caches to OpenTelemetry, as ``tenfold.cache.requests`` and so on with the attribute ``cache``::

        instrument_caches([cache])

    ``caches`` may be any iterable that can be gone through again; it is kept, and a list may grow and shrink.
    ``meter_provider`` (default: the global one, which may be set later) is where they are shown. What is shown already
    is not shown twice. Raises `MisuseError` where ``opentelemetry`` is not installed, and for two caches of one name.
    """
    _show("instrument_caches", lambda reader: (cache_group(caches, reader),), meter_provider)


def instrument_policies(
    registry: Iterable[Shows] = REGISTRY,
    *,
    shedders: Iterable[Shows] = (),
    degradations: Iterable[Shows] = (),
    files: Iterable[Shows] = (),
    meter_provider: MeterProvider | None = None,
) -> None:
    """Show living policies to OpenTelemetry, as ``tenfold.policy.calls`` and so on with the attribute ``policy``::

        instrument_policies()

    ``registry`` is where the policies are (default: `tenfold.resilience.REGISTRY`); each is shown as long as it lives.
    ``shedders``, ``degradations`` and ``files`` (what `load_policies` returns) are shown, too. ``meter_provider`` is as
    for `instrument_caches`. Raises `MisuseError` where ``opentelemetry`` is not installed, and where two of a kind
    have one name.
    """
    _show("instrument_policies", lambda _: policy_groups(registry, shedders, degradations, files), meter_provider)


def instrument_balancers(balancers: Iterable[Balances], *, meter_provider: MeterProvider | None = None) -> None:
    """Show balancers to OpenTelemetry, as ``tenfold.balancer.requests`` and so on with the attribute ``balancer``::

        instrument_balancers([balancer])

    ``balancers`` and ``meter_provider`` are as for `instrument_caches`. Raises `MisuseError` where ``opentelemetry`` is
    not installed, and for two balancers of one name.
    """
    _show("instrument_balancers", lambda reader: (balancer_group(balancers, reader),), meter_provider)


def instrument_databases(databases: Iterable[ShowsState], *, meter_provider: MeterProvider | None = None) -> None:
    """Show clusters to OpenTelemetry, as ``tenfold.database.reads`` and so on with the attribute ``database``::

        instrument_databases([cluster])

    ``databases`` and ``meter_provider`` are as for `instrument_caches`. Raises `MisuseError` where ``opentelemetry`` is
    not installed, and for two databases of one name.
    """
    _show("instrument_databases", lambda reader: (database_group(databases, reader),), meter_provider)


def instrument_outboxes(outboxes: Iterable[ShowsState], *, meter_provider: MeterProvider | None = None) -> None:
    """Show outboxes to OpenTelemetry, as ``tenfold.outbox.delivered`` and so on with the attribute ``outbox``::

        instrument_outboxes([dispatcher])

    ``outboxes`` and ``meter_provider`` are as for `instrument_caches`. Raises `MisuseError` where ``opentelemetry`` is
    not installed, and for two outboxes of one name.
    """
    _show("instrument_outboxes", lambda reader: (outbox_group(outboxes, reader),), meter_provider)


class _Kind:
    """All owners of one label at one provider, and the last look at them."""

    def __init__(self, label: str) -> None:
        self.label: Final = label
        self._groups: list[Group] = []
        self._look: list[tuple[str, Mapping[str, Any]]] | None = None
        self._served: set[str] = set()
        self._lock: Final = threading.RLock()

    def add(self, group: Group, reader: str) -> None:
        with self._lock:
            if any(known.source is group.source for known in self._groups):
                return
            _merged((*self._groups, group), reader)
            self._groups.append(group)
            self._look = None

    def callback(self, family: Family, observation: type[Observation]) -> Callable[[Any], Iterator[Observation]]:
        labels = (self.label, *family.labels)

        def observe(options: Any) -> Iterator[Observation]:
            for name, snapshot in self._looked(family.name):
                for values, value in family.read(snapshot):
                    yield observation(value, dict(zip(labels, (name, *values), strict=True)))

        return observe

    def _looked(self, metric: str) -> list[tuple[str, Mapping[str, Any]]]:
        with self._lock:
            if self._look is None or metric in self._served:
                self._look = None  # nothing old is shown if this raises
                self._served.clear()
                self._look = _merged(self._groups, "opentelemetry")
            self._served.add(metric)
            return self._look


def _merged(groups: Iterable[Group], reader: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and snapshot of each owner, once. Raises `MisuseError` for two owners of one name."""
    named: dict[str, Owner] = {}
    for group in groups:
        for owner in group.owners():
            if named.setdefault(owner.name, owner).itself is not owner.itself:
                raise MisuseError(
                    f"{reader}: expected a name for each {group.label}, got {owner.name!r} twice; "
                    "their series could not be told apart"
                )
    return [(owner.name, owner.snapshot) for owner in named.values()]


class _Providers:
    """What each provider shows, by label. One for the process, as the global provider is."""

    def __init__(self) -> None:
        self._kinds: Final[WeakKeyDictionary[MeterProvider, dict[str, _Kind]]] = WeakKeyDictionary()
        self._first_global: MeterProvider | None = None
        self._lock: Final = threading.Lock()

    def show(self, provider: MeterProvider, is_global: bool, groups: Iterable[Group], reader: str, api: Any) -> None:
        with self._lock:
            kinds = self._of(provider, is_global)
            meter = provider.get_meter("tenfold", __version__)
            for group in groups:
                kind = kinds.get(group.label) or _Kind(group.label)
                kind.add(group, reader)
                if group.label not in kinds:
                    kinds[group.label] = kind
                    _make_instruments(meter, kind, group.families, api.Observation)

    def _of(self, provider: MeterProvider, is_global: bool) -> dict[str, _Kind]:
        if is_global:
            # Until the application sets its provider there is a stand-in; its instruments move to the one that is set.
            if self._first_global is None:
                self._first_global = provider
            elif provider not in self._kinds:
                self._kinds[provider] = self._kinds[self._first_global]
        return self._kinds.setdefault(provider, {})


def _make_instruments(meter: Meter, kind: _Kind, families: Iterable[Family], observation: type[Observation]) -> None:
    for family in families:
        make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        make(family.name, [kind.callback(family, observation)], family.unit, family.help)


_PROVIDERS: Final = _Providers()


def _show(reader: str, made: Callable[[str], Iterable[Group]], provider: MeterProvider | None) -> None:
    try:
        from opentelemetry import metrics
    except ImportError as exc:
        raise MisuseError(
            f"{reader}: expected opentelemetry-api, which is not installed; say: pip install tenfold[observe]"
        ) from exc
    if provider is not None and not hasattr(provider, "get_meter"):
        raise MisuseError(
            f"{reader}: meter_provider: expected a MeterProvider, not one of its meters, got {provider!r}"
        )
    current = metrics.get_meter_provider()
    chosen = current if provider is None else provider
    _PROVIDERS.show(chosen, chosen is current, made(reader), reader, metrics)
