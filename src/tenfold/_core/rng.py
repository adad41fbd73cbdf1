"""Randomness as an argument: streams derived from one seed by name, so that adding a stream never shifts another."""

from __future__ import annotations

import hashlib
import random


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 64-bit seed for the stream named by ``labels``; the same on every machine, Python and hash seed."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *labels):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest(), "big")


def derive(seed: int, *labels: str | int) -> random.Random:
    """An independent generator for the stream named by ``labels``, for example ``derive(seed, "arrivals", worker)``."""
    return random.Random(derive_seed(seed, *labels))
