#!/bin/sh
# Every backend on every golden checkpoint.  ref is held to what it can do; the others may
# round differently, and some options round on purpose.
n=0 fail=0
for test in $BACKENDS $ROUNDED; do
    b=${test%%:*}
    opt=$(echo "${test#"$b"}" | tr ':,' '  ')
    so=$MODULES/$b.so
    test -e "$so" || so=$EMULATED/$b.so
    test -e "$so" || continue
    rel=1e-4
    test "$b" != ref || rel=2e-6
    case " $ROUNDED " in *" $test "*) rel=3e-2;; esac
    for dir in "$srcdir"/tests/data/tiny-* "$srcdir/models/nano"; do
        case $opt${dir##*/} in *kv=q8_0*tiny-*) continue;; esac      # heads of 8 numbers, blocks of 32
        n=$((n + 1))
        if out=$("$builddir/tests/golden/golden" "$so" "$dir" --logits $rel $opt)
        then
            case $out in *'# SKIP'*) echo "ok $n # SKIP $test cannot run on this machine"; continue;; esac
            echo "ok $n - $test computes what the reference code computed on ${dir##*/}"
        else
            fail=1
            echo "not ok $n - $test computes what the reference code computed on ${dir##*/}"
            echo "$out" | grep -E '^(not ok|Bail)' | sed 's/^/# /'
        fi
        echo "$out" | awk '/worst/ && /logit/ {
            for (i = 1; i < NF; i++) if ($(i + 1) == "of" && $i + 0 > worst) worst = $i + 0
        } END { print "#   worst logit: " worst " of the largest" }'
    done
done
echo "1..$n"
exit $fail
