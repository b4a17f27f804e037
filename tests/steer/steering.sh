#!/bin/sh
# Steering at a terminal; see steering.py.
exec "${PYTHON:-python3}" "$srcdir/tests/steer/steering.py"
