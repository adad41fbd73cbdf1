"""The root of every error that tenfold raises on purpose."""

from __future__ import annotations


class TenfoldError(Exception):
    """Root of the family. Each package derives its own; catch this one to catch them all."""


class MisuseError(TenfoldError, ValueError):
    """The caller asked for something that makes no sense.

    The message says what was expected, what came, what to do.
    """
