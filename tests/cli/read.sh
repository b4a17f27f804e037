#!/bin/sh
# What programs read: --json and /dump; see reader.py.
exec sh "$srcdir/tests/each.sh" tests/cli/reader.py
