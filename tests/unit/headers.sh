#!/bin/sh
# The three headers seen on both sides of dlopen compile alone, without a warning, in every
# language a module may be written in.
n=0
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
strict="-Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Werror -pedantic -I$srcdir -fsyntax-only"

# check LABEL COMMAND...
check() {
    n=$((n + 1))
    label=$1
    shift
    if "$@" >"$tmp/log" 2>&1; then
        echo "ok $n - $label"
    else
        echo "not ok $n - $label"
        sed 's/^/# /' "$tmp/log"
    fi
}

for h in plugins/abi.h backends/backend.h plugins/observer.h; do
    for ext in c cc cu; do             # twice: the guards work
        printf '#include "%s"\n#include "%s"\nextern int unused;\nint unused;\n' $h $h >"$tmp/t.$ext"
    done
    check "$h as C11" $CC -std=c11 $strict "$tmp/t.c"
    check "$h as C++17" $CXX -std=c++17 $strict "$tmp/t.cc"
    if test -n "$NVCC"; then
        check "$h as CUDA" "$NVCC" -Werror all-warnings -I"$srcdir" -c -o "$tmp/t.o" "$tmp/t.cu"
    else
        n=$((n + 1))
        echo "ok $n # SKIP $h as CUDA: no nvcc"
    fi
done
echo "1..$n"
