#!/bin/sh
# Switching backends at a terminal; see switcher.py.
exec sh "$srcdir/tests/each.sh" tests/cli/switcher.py
