#!/bin/sh
# Does the conformance test bite?  broken.so breaks one rule on request; the check named
# beside it must fail (a crash in it counts).  A NAME without a failure is a hole in the test.
rules="
none            -       overrun         C24     underrun        C24
noise           C20     nan             C17     chunked         C22
shared          C32     prints          C110    writes          C110
signal          C111    locale          C112    descriptor      C16
leak            C16     option          C9      newline         C9
fd              C12     w2              C13     zero            C15
full            C28     partial         C28     room            C26
token           C27     long-batch      C25     null-error      C27
error-code      C27     error-on-ok     C20     error-moves     C27
position        C21     truncate        C30     truncate-off    C30
truncate-beyond C31     deaf            C41     stop-position   C41
stop-loses      C41     order           C51     weight          C52
want            C57     layers          C50     pos             C50
bias            C61     mark            C64     scale           C66
source          C73
top-k           C67     head-rows       C87     head-moves      C87
kv-swapped      C92     kv-deaf         C93     kv-status       C93
kv-short        C90     kv-blocks       C90     kv-dtype        C97
kv-not-empty    C98     kv-beyond       C99     kv-early        C95
kv-commit       C95     kv-extend       C102    kv-from         C103
moody           C120    cut             C121    threaded        C122
crowded         C123    choices         C124
resume-block    C130    resume-moves    C130    resume-steer    C131
resume-kv       C131    resume-beyond   C133    resume-stop     C134
"
so=$builddir/tests/conformance/.libs/broken.so
n=0
set -- $rules
while test $# -gt 0; do
    n=$((n + 1))
    case $2 in
    -) only= ;;
    C11?) only="--only C20" ;;             # process-wide rules: anything that evaluates will do
    *) only="--only $2" ;;
    esac
    out=$("$builddir/tests/conformance/conformance" "$so" $only "break=$1" 2>&1)
    status=$?
    got=$(echo "$out" | sed -n 's/^not ok [0-9]* - \(C[0-9]*\) .*/\1/p' | tr '\n' ' ')
    if test "$2" = -; then
        if test $status = 0; then echo "ok $n - unbroken passes"
        else echo "not ok $n - unbroken fails: $got"; fi
    else
        case " $got" in
        *" $2 "*) echo "ok $n - break=$1 is noticed by $2" ;;
        *) echo "not ok $n - break=$1 is not noticed by $2"
           echo "# status $status, failed: $got$(echo "$out" | grep Bail)" ;;
        esac
    fi
    shift 2
done
echo "1..$n"
