"""The ``tenfold`` command. One module a command, loaded when it is called; nothing but parsing and printing."""

from __future__ import annotations

import sys

from cyclopts import App

from tenfold import __version__
from tenfold._core.errors import TenfoldError

app = App(
    name="tenfold",
    help="Let a Python service take ten times the traffic, and prove it: measure, find, fix, prove.",
    version=__version__,
)

# Import strings: a command's module, and what it drags in, loads only when that command is asked for.
app.command("tenfold.cli.up:up", name="up")
app.command("tenfold.cli.up:down", name="down")
app.command("tenfold.cli.up:status", name="status")
app.command("tenfold.cli.load:app", name="load")
app.command("tenfold.cli.compare:compare", name="compare")
app.command("tenfold.cli.blackfriday:blackfriday", name="blackfriday")


def main() -> None:
    """Entry point of the console script. A deliberate error is one sentence on stderr and exit code 2, never a trace."""
    try:
        app()
    except TenfoldError as error:
        print(f"tenfold: {error}", file=sys.stderr)
        sys.exit(2)
