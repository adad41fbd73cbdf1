"""What is needed by one source only is loaded by that source only."""

import os
import subprocess
import sys
from pathlib import Path

import tenfold


def test_importing_discovery_and_checks_loads_no_client_library():
    code = (
        "import sys; import tenfold.balance.discovery, tenfold.balance.checker, tenfold.balance.ejector; "
        "print(sorted({'httpx2', 'httpx', 'dns', 'anyio', 'aiohttp', 'kubernetes'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tenfold.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
