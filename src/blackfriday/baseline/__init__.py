"""The shop as a good tutorial has it: FastAPI, async SQLAlchemy ORM, eager loading, OFFSET pages, no
cache.
"""

from blackfriday.baseline.app import create_app

__all__ = ["create_app"]
