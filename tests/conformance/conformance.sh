#!/bin/sh
# Every backend that is built, one TAP stream.
# freed blocks that glibc keeps at hand would count as used
GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0; export GLIBC_TUNABLES
n=0 bad=0
for test in $BACKENDS shim:of=cpu-blas; do
    b=${test%%:*}
    opt=$(echo "${test#"$b"}" | tr ':,' '  ')
    file=$MODULES/$b.so
    test -e "$file" || file=$SHIMS/$b.so   # the shim must not be noticed
    test -e "$file" || file=$EMULATED/$b.so
    test -e "$file" || continue
    out=$("$builddir/tests/conformance/conformance" "$file" $opt)
    status=$?
    eval "$(echo "$out" | awk -v n="$n" '/^(not )?ok/ { n++ } END { print "count=" n }')"
    echo "$out" | grep -v '^1\.\.' |
        awk -v n="$n" -v b="$test" '/^(not )?ok/ { n++; sub(/ok [0-9]+ (- )?/, "ok " n " - " b " ");
                                                sub(/- [^ ]+ # SKIP/, "# SKIP " b) } { print }'
    n=$count
    # killed before its plan: a crash is a failure of its own
    case $out in *1..[0-9]*) ;; *) n=$((n + 1)); status=1; echo "not ok $n - $test ended early";; esac
    test $status = 0 || bad=1
done
echo "1..$n"
exit $bad
