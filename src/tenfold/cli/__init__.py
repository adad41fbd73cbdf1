"""The ``tenfold`` command. One module a command, loaded when it is called; nothing but parsing and printing."""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from tenfold import __version__
from tenfold._core.errors import TenfoldError

app = App(
    name="tenfold",
    help="Let a Python service take ten times the traffic, and prove it: measure, find, fix, prove.",
    version=__version__,
)

# Import strings: a command's module, and what that drags in, loads only when the command is called. The help text
# stands here too, or `tenfold --help` would have to load them all.
app.command("tenfold.cli.up:up", name="up", help="Start PostgreSQL (primary, replicas, shards) and Valkey.")
app.command("tenfold.cli.up:down", name="down", help="Stop what `tenfold up` started.")
app.command("tenfold.cli.up:status", name="status", help="Show what `tenfold up` started: roles, lag, addresses.")
app.command("tenfold.cli.load:app", name="load", help="Load-test a service: one run, or its breakpoint.")
app.command("tenfold.cli.compare:compare", name="compare", help="Say whether result B is better than result A.")
app.command("tenfold.cli.cache:app", name="cache", help="Look at a cache in a running Valkey, clear it, warm it.")
app.command("tenfold.cli.simulate:simulate", name="simulate", help="Simulate balancing policies on a virtual clock.")
app.command("tenfold.cli.plan:plan", name="plan", help="Say what a rate takes, by results of load tests.")
app.command("tenfold.cli.gateway:app", name="gateway", help="A reverse proxy with an HTTP cache: run it.")
app.command("tenfold.cli.serve:serve", name="serve", help="Serve an ASGI app in workers, scaled by what is measured.")
app.command("tenfold.cli.reshard:app", name="reshard", help="Move buckets between shards while the application writes.")
app.command("tenfold.cli.blackfriday:blackfriday", name="blackfriday", help="The whole proof on the reference shop.")


# What a command may lack, and the extra that has it.
_EXTRAS = {
    "asyncpg": "servers",
    "cronsim": "serve",
    **dict.fromkeys(("httptools", "numpy", "plotly", "uvloop"), "load"),
    **dict.fromkeys(("fastapi", "granian", "httpx2", "orjson", "redis", "sqlalchemy"), "shop"),
}
# The same package for a command that needs no more than it.
_EXTRAS_OF = {"reshard": dict.fromkeys(("asyncpg", "sqlalchemy"), "db")}


def main() -> None:
    """Entry point of the console script.

    A deliberate error is one sentence on stderr and exit code 2, never a traceback; so is a command line that cannot
    be understood. SIGINT is exit code 130, as shells have it.
    """
    try:
        app(exit_on_error=False)
    except CycloptsError:
        sys.exit(2)  # cyclopts has printed what it expected
    except TenfoldError as error:
        print(f"tenfold: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        missing = _missing(error)
        if missing is None:
            raise
        if "pip install" in str(error):  # it says it better
            print(f"tenfold: {error}", file=sys.stderr)
            sys.exit(2)
        extra = _EXTRAS_OF.get(" ".join(sys.argv[1:2]), _EXTRAS).get(missing, _EXTRAS[missing])
        print(
            f"tenfold: this command needs {missing}, which is not installed: pip install 'tenfold[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("tenfold: interrupted", file=sys.stderr)
        sys.exit(130)


def _missing(error: BaseException | None) -> str | None:
    """The package whose absence is at the bottom of ``error``, if it is one of an extra."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name in _EXTRAS:
            return name
        error = error.__cause__ or error.__context__
    return None
