"""The servers of the integration tests, which these tests promote and kill."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location("database_servers", Path(__file__).parents[2] / "integration" / "db" / "conftest.py")
_TOOLS = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_TOOLS)
emptied, kept, plain, remade, topology = _TOOLS.emptied, _TOOLS.kept, _TOOLS.plain, _TOOLS.remade, _TOOLS.topology
unheard_commits = _TOOLS.unheard_commits
