"""What the server imports: ``blackfriday.asgi:app``, the variant that the environment asks for."""

from __future__ import annotations

from fastapi import FastAPI

from blackfriday.settings import Settings


def create(settings: Settings) -> FastAPI:
    """The application of ``settings.variant``; only its own dependencies are imported."""
    if settings.variant == "baseline":
        from blackfriday import baseline

        return baseline.create_app(settings)
    if settings.variant == "draft":
        from blackfriday import draft

        return draft.create_app(settings)
    from blackfriday import tuned

    return tuned.create_app(settings)


app = create(Settings.from_environment())
