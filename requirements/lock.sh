#!/bin/sh
# Usage: lock.sh UV [--upgrade]. Pins the widest set first and holds the smaller ones to it.
set -eu
uv=$1; shift
cd "$(dirname "$0")/.."
compile() { name=$1; shift
    "$uv" pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-annotate \
        -o "requirements/$name.txt" "$@"; }
compile bench --group bench "$@"
compile fuzz --group fuzz -c requirements/bench.txt
compile dev --group dev -c requirements/bench.txt
compile run -c requirements/bench.txt
echo "hatchling
editables" | "$uv" pip compile -q - --universal --python-version 3.11 --no-header --no-annotate \
        -c requirements/bench.txt -o requirements/build.txt
