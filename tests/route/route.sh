#!/bin/sh
# Routing in files; see files.py.
exec "${SHELL:-/bin/sh}" "$srcdir/tests/each.sh" tests/route/files.py numpy
