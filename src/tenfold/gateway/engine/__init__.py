"""The embedded engine of the gateway: HTTP/1.1 in and out, in one event loop. See `Gateway`."""

from tenfold.gateway.engine.gateway import Gateway

__all__ = ["Gateway"]
