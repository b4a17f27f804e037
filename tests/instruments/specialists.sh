#!/bin/sh
# dbrx specialists; see specialists.py.
# ref goes through the same calls, and would take minutes
ON=${ON:-cpu-blas shim}
export ON
exec sh "$srcdir/tests/each.sh" tests/instruments/specialists.py
