#!/bin/sh
# /watch at a terminal; see watching.py.
exec sh "$srcdir/tests/each.sh" tests/instruments/watching.py
