#!/bin/sh
# dbrx perplexity and dbrx imatrix against numpy: see weights.py.
exec sh "$srcdir/tests/each.sh" tests/cli/weights.py numpy
