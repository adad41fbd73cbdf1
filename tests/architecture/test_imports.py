"""What an import drags in, counted in modules and not in milliseconds, which depend on the machine."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tenfold

HEAVY = {
    "numpy",
    "sqlalchemy",
    "asyncpg",
    "plotly",
    "uvloop",
    "redis",
    "fastapi",
    "pytest",
    "locust",
    "httptools",
    "httpx2",
    "httpx",
    "aiohttp",
    "dns",
    "opentelemetry",
}


def loaded_by(code, *arguments):
    """The top-level modules that a fresh interpreter has loaded after running ``code``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def exists(name):
    return importlib.util.find_spec(name) is not None


PACKAGES = [
    name
    for name in (
        "tenfold.balance",
        "tenfold.cache",
        "tenfold.db",
        "tenfold.gateway",
        "tenfold.load",
        "tenfold.servers",
        "tenfold.simulate",
        "tenfold.testing",
    )
    if exists(name)
]


@pytest.fixture(scope="module")
def bare():
    """What an interpreter loads by itself here: some environments preload modules at start-up."""
    return loaded_by("pass")


def test_help_loads_nothing_heavy(bare):
    code = "import tenfold.cli\ntry: tenfold.cli.main()\nexcept SystemExit as end: assert not end.code, end"
    loaded = loaded_by(code, "--help") - bare
    assert "cyclopts" in loaded  # or this test looks at the wrong thing
    assert loaded & HEAVY == set()


def test_the_root_package_loads_nothing_but_itself(bare):
    extra = loaded_by("import tenfold") - bare - set(sys.stdlib_module_names)
    assert extra == {"tenfold"}


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_database_package_may_load_a_database_library(package, bare):
    allowed = {"sqlalchemy", "asyncpg", "greenlet"} if package == "tenfold.db" else set()
    assert (loaded_by(f"import {package}") - bare) & {
        "sqlalchemy",
        "asyncpg",
        "plotly",
        "fastapi",
        "pytest",
    } <= allowed


def test_the_core_stands_on_the_standard_library_alone(bare):
    modules = sorted((Path(tenfold.__file__).parent / "_core").glob("*.py"))
    names = [f"tenfold._core.{path.stem}" for path in modules if path.stem != "__init__"]
    assert "tenfold._core.units" in names
    extra = loaded_by("\n".join(f"import {name}" for name in names)) - bare - set(sys.stdlib_module_names)
    assert extra == {"tenfold"}
