"""A pytest plugin: add ``pytest_plugins = ["tenfold.testing.pytest_plugin"]`` to your top ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenfold.testing.fake_clock import FakeClock


@pytest.fixture(name="fake_clock")
def fake_clock_fixture() -> Iterator[FakeClock]:
    """A `FakeClock` for one test, closed after it: ``def test_it(fake_clock): fake_clock.run(main())``.

    The test is a plain function: in an ``async def`` test another event loop runs already.
    """
    with FakeClock() as clock:
        yield clock
