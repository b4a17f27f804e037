#!/bin/sh
# What people see at a terminal; see viewer.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/cli/viewer.py
