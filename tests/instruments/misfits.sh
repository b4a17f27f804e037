#!/bin/sh
# Instruments that get things wrong; see misfits.py.
exec sh "$srcdir/tests/each.sh" tests/instruments/misfits.py
