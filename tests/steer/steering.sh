#!/bin/sh
# Steering at a terminal; see steering.py.
# ref goes through the same calls, and would take minutes
ON=${ON:-cpu-blas shim}
export ON
exec sh "$srcdir/tests/each.sh" tests/steer/steering.py
