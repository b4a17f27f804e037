#!/bin/sh
# Routing in files; see files.py.
if ! "${PYTHON:-python3}" -c 'import numpy' 2>/dev/null; then
    echo "1..0 # SKIP no Python 3 with numpy"
    exit 0
fi
exec "${PYTHON:-python3}" "$srcdir/tests/route/files.py"
