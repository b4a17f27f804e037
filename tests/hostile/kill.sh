#!/bin/sh
# kill -9 at random moments; see kill.py.
if ! command -v "${PYTHON:-python3}" >/dev/null; then
    echo "1..0 # SKIP no Python 3"
    exit 0
fi
exec "${PYTHON:-python3}" "$srcdir/tests/hostile/kill.py"
