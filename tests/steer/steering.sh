#!/bin/sh
# Steering at a terminal; see steering.py.
ON="${ON:-ref cpu-blas shim cuda-emu}" exec sh "$srcdir/tests/each.sh" tests/steer/steering.py
