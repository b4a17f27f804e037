#!/bin/sh
# Switching backends at a terminal; see switcher.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/cli/switcher.py
