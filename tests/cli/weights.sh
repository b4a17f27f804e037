#!/bin/sh
# dbrx perplexity and dbrx imatrix against numpy: see weights.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/cli/weights.py numpy
