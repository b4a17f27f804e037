#!/bin/sh
# Routing in views; see views.py.
exec sh "$srcdir/tests/each.sh" tests/route/views.py numpy
