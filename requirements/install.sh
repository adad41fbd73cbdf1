#!/bin/sh
# Usage: install.sh VENV run|dev|fuzz|bench. Makes VENV where it is missing and installs the pinned set and the project.
set -eu
venv=$1 set=$2
here=$(dirname "$0")

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c "$new_enough" 2>/dev/null; then
    python=
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c "$new_enough" 2>/dev/null; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "tenfold needs Python 3.11 or newer; found $(python3 --version 2>&1 || echo none)." \
             "Install one, or name it: make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    echo "making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear "$venv" 2>"$venv.log"; then
        rm -rf "$venv"
        echo "$python could not make a virtual environment (see below)." \
             "On Debian and Ubuntu: apt-get install python3-venv" >&2
        cat "$venv.log" >&2; rm -f "$venv.log"
        exit 1
    fi
    rm -f "$venv.log"
fi

echo "installing the pinned packages of requirements/$set.txt (the first time takes a minute)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/$set.txt" -r "$here/build.txt"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$here/.."
