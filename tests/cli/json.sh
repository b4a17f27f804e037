#!/bin/sh
# The schema of --json; see events.py.
exec sh "$srcdir/tests/each.sh" tests/cli/events.py
