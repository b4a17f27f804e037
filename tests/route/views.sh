#!/bin/sh
# Routing in views; see views.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/route/views.py numpy
