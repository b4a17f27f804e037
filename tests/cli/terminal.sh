#!/bin/sh
# What people see at a terminal; see viewer.py.
exec sh "$srcdir/tests/each.sh" tests/cli/viewer.py
