#!/bin/sh
# dbrx specialists; see specialists.py.
exec sh "$srcdir/tests/each.sh" tests/instruments/specialists.py
