#!/bin/sh
# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
# Print the interpreter to build the environment with: find_python.sh WANTED VENV
# WANTED if given; else the one that the environment VENV was built with; else the first usable one on PATH.
set -u
wanted=$1
venv=$2

usable() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null
}

if [ -n "$wanted" ]; then
    if usable "$wanted"; then
        echo "$wanted"
        exit 0
    fi
    echo "find_python: error: PYTHON=$wanted does not run or is not Python 3.10 to 3.14" >&2
    exit 1
fi
if [ -f "$venv/pyvenv.cfg" ]; then
    home=$(sed -n 's/^home *= *//p' "$venv/pyvenv.cfg")
    version=$(sed -n 's/^version *= *\([0-9]*\.[0-9]*\).*/\1/p' "$venv/pyvenv.cfg")
    built_with=$home/python$version
    if usable "$built_with"; then
        echo "$built_with"
        exit 0
    fi
fi
for name in python3 python3.12 python3.11 python3.13 python3.10; do
    if usable "$name"; then
        echo "$name"
        exit 0
    fi
done
echo 'find_python: error: no Python 3.10 to 3.14 found; install one, or name it: make PYTHON=/path/to/python3' >&2
exit 1
