"""What happens to an HAProxy that is driven, as typed events. Its endpoints go up and down with the balancer's own
`EndpointUp` and `EndpointDown`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenfold._core.events import Event


@dataclass(frozen=True, slots=True)
class HAProxyReloaded(Event):
    """Another worker, the process ``pid``, serves, with the file as it is now; the old one ends when its requests have.
    ``why`` is a sentence for a person.
    """

    pid: int
    why: str


@dataclass(frozen=True, slots=True)
class HAProxyRestarted(Event):
    """HAProxy had ended by itself and was started again, as the process ``pid``; requests under way were lost.
    ``words`` are the last that the old one said.
    """

    pid: int
    words: str


@dataclass(frozen=True, slots=True)
class HAProxyAstray(Event):
    """HAProxy could not be made what it should be; told once for each reason, and tried again every few seconds."""

    reason: str


@dataclass(frozen=True, slots=True)
class HAProxyCorrected(Event):
    """Somebody else had changed servers at run time, and it was undone. ``commands`` are what was said to it."""

    commands: tuple[str, ...]
