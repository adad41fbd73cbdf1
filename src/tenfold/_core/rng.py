"""Randomness as an argument: streams derived from one seed by name, so that adding a stream never shifts
another.
"""

from __future__ import annotations

import hashlib
import random


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 64-bit seed for the stream named by ``labels``; the same on every machine, Python and hash seed.

    The label ``1`` and the label ``"1"`` name two streams; a member of an ``IntEnum`` or ``StrEnum`` names
    the stream of its value.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *labels):
        # Not f"{part}": how an enum member formats differs between Python 3.11 and 3.12.
        text = (f"str:{str.__str__(part)}" if isinstance(part, str) else f"int:{int(part)}").encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest(), "big")


def derive(seed: int, *labels: str | int) -> random.Random:
    """An independent generator for the stream named by ``labels``, for example ``derive(seed, "arrivals",
    worker)``.
    """
    return random.Random(derive_seed(seed, *labels))
