#!/bin/sh
# Routing in files; see files.py.
exec sh "$srcdir/tests/each.sh" tests/route/files.py numpy
