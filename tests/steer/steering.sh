#!/bin/sh
# Steering at a terminal; see steering.py.
exec sh "$srcdir/tests/each.sh" tests/steer/steering.py
