"""What can go wrong around a load test, as types. What goes wrong *inside* one is counted, not raised."""

from __future__ import annotations

from tenfold._core.errors import TenfoldError


class LoadError(TenfoldError):
    """Root of the errors of `tenfold.load` that are not the caller's fault."""


class TargetDownError(LoadError):
    """Nothing listens at the target, seen before the first request of the run."""


class WorkerError(LoadError):
    """A load process did not come up. The message holds what it said on stderr."""


class RequestFailed(LoadError):
    """Raised into a journey when a request got no answer; ends the journey unless the journey catches it.

    ``kind`` is what the result counts: ``connect refused``, ``connect timeout``, ``reset``, ``closed``,
    ``timeout``,
    ``protocol`` or ``too large``. The open step has been marked as failed already.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"the request got no answer: {kind}")
        self.kind = kind
