#!/bin/sh
# run.sh address|thread [TEST...]: the suite, or these tests of it, in a build of its own that is
# made with a sanitizer whole, modules too.  It lies in asan/ or tsan/ of the build folder that
# make check-asan, check-tsan were called in, and is configured as that one was.
#
# A program's report may drown in a test that expects it to fail or looks at stdout alone, so
# each goes to a file of its own, and a report is a failure whatever the test thought of it.
# How a test knows where it runs: SANITIZER=address|thread.
set -u
kind=$1
shift
case $kind in
address) dir=asan flags="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all" ;;
thread)  dir=tsan flags="-fsanitize=thread" ;;
*) echo "run.sh address|thread [TEST...]" >&2; exit 2 ;;
esac
here=$(cd "$srcdir/tests/sanitizers" && pwd)
flags="-g -O1 -fno-omit-frame-pointer $flags"

mkdir -p $dir && cd $dir || exit 1
top=$PWD
if ! test -f Makefile; then
    echo "check-$dir: configuring $dir/"
    # gcc warns of what its own instrumentation blurs: warnings are what plain builds are for
    (eval "set -- $(../config.status --config)"
     "$here/../../configure" "$@" --disable-werror CFLAGS="$flags" CXXFLAGS="$flags") >configure.log 2>&1 ||
        { tail -n 20 configure.log >&2; echo "check-$dir: configure failed: $top/configure.log" >&2; exit 1; }
fi
echo "check-$dir: building"
${MAKE:-make} all >make.log 2>&1 && ${MAKE:-make} check TESTS= >>make.log 2>&1 ||
    { tail -n 30 make.log >&2; echo "check-$dir: it does not build: $top/make.log" >&2; exit 1; }

rm -rf reports && mkdir reports
common="log_path=$top/reports/report"
# a size that a file dreamt up gets NULL, as from malloc, not the end of the program
common="$common:allocator_may_return_null=1:max_allocation_size_mb=4096"
SANITIZER=$kind
ASAN_OPTIONS="$common:strict_string_checks=1"
UBSAN_OPTIONS="print_stacktrace=1:abort_on_error=1"     # beside ASan it knows no log_path
LSAN_OPTIONS="suppressions=$here/lsan.supp:print_suppressions=0"
TSAN_OPTIONS="$common:suppressions=$here/tsan.supp:second_deadlock_stack=1"
export SANITIZER ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS TSAN_OPTIONS
echo "check-$dir: testing"
# ThreadSanitizer cannot follow the fibers of the emulated GPU
only=
test $kind = thread && only="BACKENDS_TESTED=cpu-blas cpu-blas:deterministic=1"
status=0
${MAKE:-make} check VERBOSE=1 ${1:+TESTS="$*"} ${only:+"$only"} >check.log 2>&1 </dev/null || status=1

# a warning about a size refused is none
reports=$(grep -lE 'ERROR: |runtime error: |WARNING: ThreadSanitizer' reports/* tests/*/*.log 2>/dev/null)
count() { sed -n "s/^# $1: *\([0-9]*\).*/\1/p" check.log | tail -n 1; }
grep -E '^(FAIL|ERROR|XPASS):' check.log | head -n 40 >&2
for r in $reports; do
    status=1
    echo "$top/$r: $(grep -hE 'SUMMARY|runtime error: ' "$r" | head -n 1)" >&2
done
test -n "$(count PASS)" || { tail -n 20 check.log >&2; echo "check-$dir: no tests ran: $top/check.log" >&2; exit 1; }
echo "check-$dir: $(count PASS) passed, $(($(count FAIL) + $(count ERROR))) failed, $(count SKIP) skipped," \
    "$(set -- $reports; echo $#) reports"
test $status = 0 || echo "check-$dir: details: $top/check.log, $top/reports/" >&2
exit $status
