#!/bin/sh
# /compare and dbrx compare against numpy on what /dump writes; see comparer.py.
exec sh "$srcdir/tests/each.sh" tests/cli/comparer.py numpy
