"""The tools of the integration tests."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location(
    "gateway_wire_tools", Path(__file__).parents[2] / "integration" / "gateway" / "conftest.py"
)
_TOOLS = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_TOOLS)
wire = _TOOLS.wire
pytest_asyncio_loop_factories = _TOOLS.pytest_asyncio_loop_factories
