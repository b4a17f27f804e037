#!/bin/sh
# What instruments say, against numpy; see statistics.py.
# ref goes through the same calls, and would take minutes
ON=${ON:-cpu-blas shim}
export ON
exec sh "$srcdir/tests/each.sh" tests/instruments/statistics.py numpy
