"""Hashes that are the same on every machine, in every process, whatever ``PYTHONHASHSEED`` says.

Python's own ``hash`` of a string differs from process to process: two gateways would send one key to two servers. Here
BLAKE2b (RFC 7693) makes 64 bits of a key in half a microsecond; nobody who chooses keys can aim them at one server by
more than trying. SHAKE-128 (FIPS 202) makes a stream of numbers of an id, the beginning of which stays the same however
long it gets.
"""

from __future__ import annotations

from hashlib import blake2b, shake_128
from struct import unpack


def hash64(text: str) -> int:
    """A whole number below 2**64."""
    # surrogatepass: what came as bytes that are no UTF-8 is a key as well.
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def stream64(text: str, count: int) -> tuple[int, ...]:
    """``count`` whole numbers below 2**64, the first of which do not depend on ``count``."""
    return unpack(f"<{count}Q", shake_128(text.encode("utf-8", "surrogatepass")).digest(8 * count))
