#!/bin/sh
# What strangers' files say on a terminal; see terminal.py.
if ! command -v "${PYTHON:-python3}" >/dev/null; then
    echo "1..0 # SKIP no Python 3"
    exit 0
fi
exec "${PYTHON:-python3}" "$srcdir/tests/hostile/terminal.py"
