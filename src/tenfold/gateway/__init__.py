"""A reverse proxy with an HTTP cache: the embedded engine, or HAProxy driven by the same configuration."""
