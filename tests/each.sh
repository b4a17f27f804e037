#!/bin/sh
# each.sh SCRIPT.py [MODULE]: a test of the shell in Python, once on every backend of $ON, in one
# TAP stream.  The script takes its backend from $BACKEND.  "shim" is cpu-blas, and every other
# backend too, under a shim that stands for it and watches how the shell treats it: no rule of
# the contract may be broken; "cuda-emu" is the cuda backend on an emulated device, which takes its
# time: scripts ask for it that take theirs into account.  MODULE: what Python must have.
python=${PYTHON:-python3}
if ! "$python" -c "import ${2:-sys}" 2> /dev/null; then
    echo "1..0 # SKIP no Python 3${2:+ with $2}"
    exit 0
fi
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
n=0 bad=0
for on in ${ON:-ref cpu-blas shim}; do
    if test "$on" = shim; then
        export BACKEND=cpu-blas DBRX_MODULE_PATH="$AS" SHIM_LOG="$T/log"
    else
        export BACKEND="$on"
        unset DBRX_MODULE_PATH SHIM_LOG
        test "$on" != cuda-emu || export DBRX_MODULE_PATH="$EMULATED"
    fi
    "$python" "$srcdir/$1" > "$T/out" 2> "$T/err"
    status=$?
    awk -v n="$n" -v on="$on" '/^(not )?ok/ { n++; sub(/ok [0-9]+ (- )?/, "ok " n " - " on ": "); sub(/- [^ ]+ # SKIP/, "# SKIP " on) }
        !/^1\.\./ { print }' "$T/out"
    n=$((n + $(grep -Ec '^(not )?ok' "$T/out")))
    grep -q '^1\.\.' "$T/out" || { status=1 n=$((n + 1)); echo "not ok $n - $on: it ended early"; }
    sed 's/^/# /' "$T/err"
    test $status = 0 || bad=1
done
if test -e "$T/log"; then
    n=$((n + 1))
    if ! grep '^violation' "$T/log" > "$T/out" && grep -q '^eval' "$T/log"; then
        echo "ok $n - the shell keeps the backend contract"
    else
        bad=1
        echo "not ok $n - the shell keeps the backend contract"
        sed 's/^/# /' "$T/out" | head -20
    fi
fi
echo "1..$n"
exit $bad
