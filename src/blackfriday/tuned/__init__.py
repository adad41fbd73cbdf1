"""The shop as the peak needs it: one statement a page, keyset pages, a cache with stock apart, reads on
replicas.
"""

from blackfriday.tuned.app import create_app

__all__ = ["create_app"]
