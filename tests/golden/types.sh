#!/bin/sh
# The bundled model in quantised types, on every instruction set of this CPU: what ref computes from
# the same file, exactly or with activations rounded as large models have them.
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
n=0 fail=0
test -e "$MODULES/cpu-blas.so" || { echo "1..0 # SKIP no cpu-blas"; exit 0; }

for type in q8_0 q4_0; do
    "$DBRX" quantize "$srcdir/models/nano" "$T/$type.gguf" --type $type > "$T/log" 2>&1 ||
        { cat "$T/log"; exit 99; }
    for isa in amx avx512bf16 avx512vnni avx512 avx2 plain; do
        # a prompt; the same a few tokens at a time; large models' way; alone as in company
        for how in 1e-6:f32: 1e-6:f32:3 1e-2:fast: 1e-6:f32,deterministic=1:5; do
            max=${how%%:*} how=${how#*:}
            step=${how#*:} opt=isa=$isa,precision=${how%:*}
            n=$((n + 1))
            if "$DBRX" compare -m "$T/$type.gguf" ref "cpu-blas:$opt" --against "$srcdir/README.md" \
                --tokens 40 ${step:+--step $step} --max-kl $max > "$T/log" 2>&1; then
                echo "ok $n - $type, $opt${step:+, $step tokens at a time}: what ref computes"
            elif grep -q 'no such instruction set' "$T/log"; then
                echo "ok $n # SKIP this CPU has no $isa"
            else
                fail=1
                echo "not ok $n - $type, $opt${step:+, $step tokens at a time}: what ref computes"
                head -20 "$T/log" | sed 's/^/# /'
            fi
        done
    done
done
echo "1..$n"
exit $fail
