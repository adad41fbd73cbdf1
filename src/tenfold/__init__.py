"""tenfold: let a Python service take ten times the traffic, and prove it."""

__version__ = "0.1.0"
