"""SQLAlchemy's dialect of asyncpg, for what is compiled or read without an engine."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.dialects.postgresql import asyncpg

DIALECT: Final[Any] = asyncpg.dialect()  # type: ignore[no-untyped-call]
