#!/bin/sh
# Switching backends at a terminal; see switcher.py.
ON="${ON:-ref cpu-blas shim cuda-emu}" exec sh "$srcdir/tests/each.sh" tests/cli/switcher.py
