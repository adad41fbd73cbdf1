"""``python -m bench NAME``: runs one bench and prints its numbers, with ``--json`` as one object."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenfold.load import environment

HERE = Path(__file__).parent


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", action="store_true", help="write bench/results/NAME.json (full runs only)")
    options = parser.parse_args()
    if options.save and options.quick:
        parser.error("--save keeps full runs only; leave --quick out")
    found: dict[str, Any] = importlib.import_module(f"bench.{options.name}").measure(quick=options.quick)
    found |= {
        "bench": options.name,
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": environment.describe() | {"node": platform.machine(), "cpus_allowed": len(os.sched_getaffinity(0))},
    }
    if options.save:
        (HERE / "results" / f"{options.name}.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
