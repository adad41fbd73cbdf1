"""Feeders: distribution, seeding, sharing among processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold.load import feed


def test_zipf_follows_its_law() -> None:
    draw = feed.zipf(10, 109, exponent=1.0)
    draw.seed(1, 0)
    n = 50_000
    seen = Counter(draw() for _ in range(n))
    harmonic = sum(1 / k for k in range(1, 101))
    assert min(seen) == 10
    assert max(seen) <= 109
    for rank in (1, 2, 5, 20):
        expected = n / rank / harmonic
        assert abs(seen[9 + rank] - expected) < 5 * expected**0.5
    flat = feed.zipf(1, 4, exponent=0)
    flat.seed(1, 0)
    assert min(Counter(flat() for _ in range(4000)).values()) > 900


def test_uniform_and_choice() -> None:
    draw = feed.uniform(-1, 1)
    draw.seed(1, 0)
    assert set(draw() for _ in range(100)) == {-1, 0, 1}
    pick = feed.choice("ab", weights=[0, 1])
    pick.seed(1, 0)
    assert {pick() for _ in range(50)} == {"b"}
    even = feed.choice(["x", "y"])
    even.seed(1, 0)
    assert {even() for _ in range(50)} == {"x", "y"}


def test_same_seed_same_draws_and_processes_differ() -> None:
    draw = feed.uniform(0, 10**9)

    def draws(seed: int, process: int) -> list[int]:
        draw.seed(seed, 0, process, 2)
        return [draw() for _ in range(5)]

    assert draws(1, 0) == draws(1, 0)
    assert draws(1, 0) != draws(1, 1)
    assert draws(1, 0) != draws(2, 0)


def test_processes_share_a_cycle() -> None:
    walk = feed.cycle([1, 2, 3, 4])
    walk.seed(1, 0, 0, 2)
    first = [walk() for _ in range(3)]
    walk.seed(1, 0, 1, 2)
    assert (first, [walk() for _ in range(3)]) == ([1, 3, 1], [2, 4, 2])


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("name,age\nann,3\nbob,4\n")
    rows = feed.csv(path)
    assert [rows(), rows(), rows()] == [
        {"name": "ann", "age": "3"}, {"name": "bob", "age": "4"}, {"name": "ann", "age": "3"},
    ]  # fmt: skip
    assert feed.csv(path, order="random")()["name"] in ("ann", "bob")


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="low <= high"):
        feed.zipf(5, 4)
    with pytest.raises(MisuseError, match="exponent"):
        feed.zipf(1, 4, exponent=-1)
    with pytest.raises(MisuseError, match="at least one value"):
        feed.cycle([])
    with pytest.raises(MisuseError, match="2 weights"):
        feed.choice([1, 2], weights=[1])
    with pytest.raises(MisuseError, match="cannot read"):
        feed.csv(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("name\n")
    with pytest.raises(MisuseError, match="at least one row"):
        feed.csv(tmp_path / "empty.csv")
