#!/bin/sh
# What instruments say, against numpy; see statistics.py.
exec sh "$srcdir/tests/each.sh" tests/instruments/statistics.py numpy
