"""What a worker of the shop is told: one frozen object, written to and read from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

Variant = Literal["draft", "baseline", "tuned"]
Rung = Literal["shapes", "indexes", "cache", "replicas", "edge"]

VARIANTS: tuple[Variant, ...] = get_args(Variant)
RUNGS: tuple[Rung, ...] = get_args(Rung)
PREFIX = "BLACKFRIDAY_"
LISTS = ("replicas", "shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of one worker.

    variant: which implementation answers (default ``baseline``).
    rung: how far up the ladder ``tuned`` is; each rung includes those below it. ``shapes``: one statement a
    page, keyset
      pages. ``indexes``: no code of its own, the indexes of :func:`blackfriday.domain.apply_indexes` are
      expected. ``cache``: memory and Valkey. ``replicas``: the catalogue is read from replicas. ``edge``:
      answers say how long a shared cache may keep them, and what changes is purged there. Ignored by the other
      variants.
    database: URL of the primary, ``postgresql://user@host:port/name``.
    replicas: URLs of the replicas; used from the rung ``replicas`` on, which without any reads from the
    primary.
    shards: URLs of the databases that hold the orders, cut by customer; used from the rung ``replicas`` on, which
    without any keeps them on the primary. Their order must stay the same.
    valkey: URL of the shared cache; used from the rung ``cache`` on, which without one has the memory of the
    worker
      alone and then keeps no stock at all.
    payment: URL of the payment service.
    edge: URL of the gateway's purges, with the token that they ask for; used at the rung ``edge``, which without one
      purges nothing.
    causality: the secret that signs what a customer has written, the same for all workers; empty = one of this worker
    alone.
    counters: folder for the counters that all workers of one shop share; empty = of this worker alone.
    """

    variant: Variant = "baseline"
    rung: Rung = "replicas"
    database: str = ""
    replicas: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    valkey: str = ""
    payment: str = ""
    edge: str = ""
    edge_token: str = ""
    causality: str = ""
    counters: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.rung not in RUNGS:
            raise ValueError(f"rung must be one of {', '.join(RUNGS)}, got {self.rung!r}")
        if not self.database:
            raise ValueError("database must be the URL of a PostgreSQL, got nothing: pass --database or database=")

    def includes(self, rung: Rung) -> bool:
        """Whether the tuned variant runs with ``rung``, being at it or above it."""
        return self.variant == "tuned" and RUNGS.index(self.rung) >= RUNGS.index(rung)

    def to_environment(self) -> dict[str, str]:
        """The variables that :meth:`from_environment` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: " ".join(getattr(self, name)) for name in LISTS}
        return {PREFIX + name.upper(): str(value) for name, value in values.items()}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings of this process; ValueError in one sentence if they cannot be."""
        values: dict[str, object] = {}
        for field in fields(cls):
            text = environment.get(PREFIX + field.name.upper())
            if text is not None:
                values[field.name] = tuple(text.split()) if field.name in LISTS else text
        return cls(**values)  # type: ignore[arg-type]
