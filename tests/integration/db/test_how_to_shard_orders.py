"""The how-to on sharding orders is true: each block of Python in it is a test file, run as its reader would run it."""

from collections.abc import Callable
from pathlib import Path

from tenfold.servers import Topology

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "shard-orders.md"


def test_every_block_of_the_how_to_passes(
    passes: Callable[[str], int], tmp_path: Path, topology: Topology, plain: Callable[[int], Topology]
) -> None:
    urls = (*(shard.url for shard in plain(2).shards), topology.primary.url, topology.replicas[0].url)
    lines = [f"{name} = {url!r}\n" for name, url in zip(("A", "B", "C", "C_REPLICA"), urls, strict=True)]
    (tmp_path / "settings.py").write_text("".join(lines), encoding="utf-8")
    assert passes(PAGE.read_text(encoding="utf-8")) == 4
