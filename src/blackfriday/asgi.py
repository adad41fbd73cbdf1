"""What the server imports: ``blackfriday.asgi:app``, the variant that the environment asks for."""

from __future__ import annotations

from fastapi import FastAPI

from blackfriday.settings import Settings


def create(settings: Settings) -> FastAPI:
    """The application of ``settings.variant``; only its own dependencies are imported."""
    if settings.variant == "baseline":
        from blackfriday.baseline import create_app
    elif settings.variant == "draft":
        from blackfriday.draft import create_app
    else:
        from blackfriday.tuned import create_app
    return create_app(settings)


app = create(Settings.from_environment())
