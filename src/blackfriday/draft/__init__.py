"""The first draft: the baseline without its loader options, so that every relation costs a statement a
row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackfriday.baseline import create_app as create_baseline

if TYPE_CHECKING:
    from fastapi import FastAPI

    from blackfriday.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """The baseline's application with lazy loading."""
    return create_baseline(settings, eager=False)
