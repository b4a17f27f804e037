#!/bin/sh
# What hands do at a terminal; see typist.py.
exec sh "$srcdir/tests/each.sh" tests/cli/typist.py
