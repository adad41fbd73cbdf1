"""What tenfold is tested with, for your tests: virtual time, and a network that fails on command.

`FakeClock` drives asyncio's time, `FaultProxy` stands between a client and a real server. Fixtures for pytest
are in `tenfold.testing.pytest_plugin`.
"""

from __future__ import annotations

from tenfold.testing.fake_clock import DeadlockError, FakeClock
from tenfold.testing.fault_proxy import Direction, FaultProxy, ProxyStats
from tenfold.testing.ports import free_port

__all__ = [
    "DeadlockError",
    "Direction",
    "FakeClock",
    "FaultProxy",
    "ProxyStats",
    "free_port",
]
