#!/bin/sh
# /watch at a terminal; see watching.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/instruments/watching.py
