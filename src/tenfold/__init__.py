"""tenfold: let a Python service take ten times the traffic, and prove it."""

from tenfold._core.errors import MisuseError, TenfoldError

__version__ = "0.1.0"

__all__ = ["MisuseError", "TenfoldError", "__version__"]
