"""Balancing over endpoints, with health, ejection and failover."""
