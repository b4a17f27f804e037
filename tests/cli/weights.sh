#!/bin/sh
# dbrx perplexity and dbrx imatrix against numpy: see weights.py.
if test -z "$PYTHON"; then
    echo "1..1"
    echo "ok 1 # SKIP no Python with numpy"
    exit 0
fi
exec "$PYTHON" "$srcdir/tests/cli/weights.py"
