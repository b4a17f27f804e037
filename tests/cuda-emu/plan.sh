#!/bin/sh
# Where cuda would put a model, as the shell shows it, and what its promises about bits are worth; on
# emulated devices.
n=0 fail=0
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
DBRX_MODULE_PATH=$EMULATED
export DBRX_MODULE_PATH
verdict() { # STATUS NAME
    n=$((n + 1))
    if test "$1" = 0; then echo "ok $n - $2"; else
        fail=1
        echo "not ok $n - $2"
        head -20 "$T/out" | sed 's/^/# /'
    fi
}
plan() { # STATUS PATTERN OPTIONS NAME
    "$DBRX" inspect --plan "cuda-emu:$3" ${5-} "$srcdir/models/nano" > "$T/out" 2>&1
    test $? = "$1" && grep -qE "$2" "$T/out" &&
        { test -n "${5-}" || awk 'length > 80 && !/^dbrx:/ { exit 1 }' "$T/out"; }
    verdict $? "$4"
}
plan 0 '^device 0, emulated device +0-5 ' context=64 "one device holds all of it"
plan 0 '^device 1, .* 2-5 ' emu-devices=2,gpus=0,1,emu-memory=30000000 "two devices share it"
plan 0 '^pinned host memory ' emu-memory=30000000 "what does not fit stays on the host"
plan 0 '"place":"pinned host memory".*"free":null' emu-memory=30000000 "... and as JSON" --json
"$DBRX" inspect --plan cuda-emu:emu-memory=30000000,offload=none > "$T/out" 2>&1
test $? = 1 && grep -q 'do not fit into the 30.0 MB that are free on 1 device' "$T/out"
verdict $? "offload=none says what is missing"
plan 1 'there is no device 7' gpus=7 "a device that is not there"
plan 1 'kv must be' kv=f64 "a type that is none"

# ... and in the shell, before it is loaded
"$DBRX" -b ref -c '/backend cuda-emu emu-memory=30000000' > "$T/text" 2> "$T/out"
test $? = 0 && ! grep -q . "$T/text" && sed -n 1p "$T/out" |
    grep -qE '^device 0, emulated device: layers 0-5, [0-9.]+ MiB of weights, [0-9.]+ MiB of KV, [0-9.]+ MiB of scratch; 28.6 MiB free$' &&
    sed -n 2p "$T/out" | grep -qE '^pinned host memory: [0-9.]+ MiB of weights$' && sed -n 3p "$T/out" | grep -q '^now on cuda-emu'
verdict $? "/backend says the plan before it loads"
"$DBRX" --json -b ref -c '/backend cuda-emu' -c '/backend ref --keep' -c '/backend cuda-emu' -c '/backend cpu-blas' > "$T/out" 2>&1
test "$(grep -c '"type":"plan"' "$T/out")" = 1 && grep '"type":"plan"' "$T/out" | grep -q '"first_layer":0,"layers":6,"weights":[1-9]'
verdict $? "... as JSON; once for each loading, not for a backend without a plan"
"$DBRX" -b ref -c '/backend cuda-emu gpus=7' > "$T/text" 2> "$T/out"
test $? = 3 && test "$(grep -c . "$T/out")" = 1 && grep -q 'there is no device 7.*still on ref' "$T/out"
verdict $? "... what cannot be planned is said once"

for rule in C121 C123; do
    "$builddir/tests/conformance/conformance" "$EMULATED/cuda-emu.so" --only $rule deterministic=1 > "$T/out" 2>&1 &&
        grep -q "^ok 1 - $rule" "$T/out"
    verdict $? "deterministic=1 keeps its promise ($rule)"
done

# out of memory while switching: the backend that was there goes on
"$DBRX" -b ref -c '/feed 5 17 300' -c '/backend cuda-emu emu-fail-alloc=9' -c /backend > "$T/out" 2>&1
grep -q 'no [0-9.]* MB left' "$T/out"
verdict $? "a switch that finds no memory says so"
"$DBRX" -b ref -s temperature=0 -s max_tokens=6 -c 'Once upon a time' -c '/backend cuda-emu' -c 'and' > "$T/a" 2> "$T/out" &&
    "$DBRX" -b ref -s temperature=0 -s max_tokens=6 -c 'Once upon a time' -c '/backend cpu-blas' -c 'and' > "$T/b" 2>> "$T/out" &&
    cmp "$T/a" "$T/b" >> "$T/out" 2>&1 && test -s "$T/a"
verdict $? "a conversation moves there and says the same as elsewhere"
echo "1..$n"
exit $fail
