#!/bin/sh
# bench/gpu-speed on the tiny shape: on the emulated device, and as it copies and counts over a CUDA driver
# without a device.  No speed is looked at, only what does not depend on it.
n=0 fail=0
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
check() { # STATUS NAME
    n=$((n + 1))
    if test "$1" = 0; then echo "ok $n - $2"; else fail=1; echo "not ok $n - $2"; sed 's/^/# /' "$T/out" | head; fi
}
speed=$builddir/bench/gpu-speed
emu=$EMULATED/cuda-emu.so
"$speed" "$emu" --shape tiny --type bf16 --gen 0,8 --tokens 4 --reps 1 --prompt 64 --peak 989 kv=f16 > "$T/out" 2>&1
check $? "generation and a prompt of random weights that lie nowhere"
# 7,634,944 bytes of weights, 1,024 of KV a position; 458,817,536 operations
grep -q '^tiny *at *0 .* tok/s .*, 0.007637 GB each: .* of a copy' "$T/out" &&
    grep -q '^tiny *at *8 .* tok/s .*, 0.007645 GB each' "$T/out"
check $? "a token's bytes are those of the formula"
grep -q '^tiny *prompt *64 .* tok/s .*, 0.0004588 TFLOP: .* TFLOP/s, .*% of 989' "$T/out"
check $? "a prompt's operations, too"
LD_LIBRARY_PATH=$FAKE/../driver/.libs FAKE_CUDA=memory=200000000 "$speed" "$FAKE/cuda.so" --shape tiny --type q4_0 \
    --gen 0 --tokens 1 --reps 1 > "$T/out" 2>&1 && grep -q 'Fake 0 (9.0); a large copy: [1-9][0-9]* GB/s$' "$T/out"
check $? "the copy is one of the device, of what memory there is"
LD_LIBRARY_PATH=$FAKE/../driver/.libs FAKE_CUDA=cuMemcpyAsync@1=1 "$speed" "$FAKE/cuda.so" --shape tiny --type q4_0 \
    --gen 0 --tokens 1 --reps 1 > "$T/out" 2>&1
grep -q 'no bandwidth measured' "$T/out"
check $? "without one there is no share"
for arguments in "--shape huge --type q4_0 --gen 0" "--shape tiny --type q9 --gen 0" "/nowhere --gen 0" \
    "--shape tiny --type bf16 --gen 99999" "--shape tiny --type bf16 --prompt 12x"; do
    # shellcheck disable=SC2086
    "$speed" "$emu" $arguments > "$T/out" 2>&1
    test $? = 1 && test "$(wc -l < "$T/out")" = 1 && grep -q '^bench/gpu-speed: ' "$T/out"
    check $? "a sentence: $arguments"
done
bad=0
for t in f32 f16 q8_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs; do
    "$speed" "$MODULES/ref.so" --shape tiny --type $t --gen 0 --tokens 1 --reps 1 > "$T/out" 2>&1 || { bad=1; break; }
done
check $bad "logits of every type are finite"
echo "1..$n"
exit $fail
