"""Balanced transports for HTTP clients: httpx2 and httpx, synchronous and not, and aiohttp."""

from tenfold.balance.transports.httpx_async import BalancedTransport
from tenfold.balance.transports.httpx_sync import BalancedSyncTransport
from tenfold.balance.transports.rules import RetryRules

__all__ = ["BalancedSyncTransport", "BalancedTransport", "RetryRules"]
