#!/bin/sh
# The golden checkpoints as GGUF files give the golden outputs; converted back they are the
# same to the bit; nano's tokenizer makes the trip too.
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
n=0 fail=0
verdict() { # STATUS NAME
    n=$((n + 1))
    if test "$1" = 0; then echo "ok $n - $2"; else
        fail=1
        echo "not ok $n - $2"
        head -20 "$T/log" | sed 's/^/# /'
    fi
}

for dir in "$srcdir"/tests/data/tiny-* "$srcdir/models/nano"; do
    name=${dir##*/}
    mkdir "$T/$name" "$T/$name.2"
    "$DBRX" convert "$dir" "$T/$name/m.gguf" > "$T/log" 2>&1
    verdict $? "$name becomes a GGUF file"
    cp "$dir/golden.json" "$T/$name"
    for test in $BACKENDS; do
        b=${test%%:*}
        opt=$(echo "${test#"$b"}" | tr ':,' '  ')
        so=$MODULES/$b.so
        test -e "$so" || so=$EMULATED/$b.so
        test -e "$so" || continue
        rel=1e-4
        case $test in ref) rel=2e-6 ;; *precision=fast*) continue ;; esac
        if "$builddir/tests/golden/golden" "$so" "$T/$name" --logits $rel $opt > "$T/out" 2>&1 ||
           ! grep -q 'cannot read' "$T/out"; then
            grep -E '^(not ok|Bail)' "$T/out" > "$T/log"
            test ! -s "$T/log"
            verdict $? "$name, from GGUF, on $test: what the reference code computed"
        else
            n=$((n + 1))
            echo "ok $n # SKIP $test cannot read this file"
        fi
    done
    "$DBRX" convert "$T/$name/m.gguf" "$T/$name.back" > "$T/log" 2>&1 &&
        "$DBRX" convert "$T/$name.back" "$T/$name.2/m.gguf" > "$T/log" 2>&1 &&
        cmp "$T/$name/m.gguf" "$T/$name.2/m.gguf" > "$T/log" 2>&1
    verdict $? "$name comes back to the bit"
done

# the weights themselves, by somebody else's reading of both formats
if test -n "$PYTHON"; then
    "$PYTHON" - "$srcdir/models/nano" "$T/nano.back" > "$T/log" 2>&1 <<'END'
import glob, json, sys
def tensors(d):
    out = {}
    for f in glob.glob(d + "/*.safetensors"):
        raw = open(f, "rb").read()
        n = int.from_bytes(raw[:8], "little")
        for k, v in json.loads(raw[8:8 + n]).items():
            if k != "__metadata__":
                a, b = v["data_offsets"]
                out[k] = v["dtype"], v["shape"], raw[8 + n + a:8 + n + b]
    return out
a, b = map(tensors, sys.argv[1:])
assert a and a == b, [k for k in a if a[k] != b.get(k)]
END
    verdict $? "nano's tensors are those it began with"
fi
for form in nano.back nano/m.gguf; do
    "$DBRX" tokenize -m "$srcdir/models/nano" "$srcdir/README.md" > "$T/a"
    "$DBRX" tokenize -m "$T/$form" "$srcdir/README.md" > "$T/b"
    cmp "$T/a" "$T/b" > "$T/log" 2>&1 && test -s "$T/a"
    verdict $? "$form encodes as nano does"
done

# quantised: smaller, and still the same model
for type in q8_0 q4_0 q4_k q5_k q6_k bf16 f16; do
    "$DBRX" quantize "$srcdir/models/nano" "$T/q.gguf" --type $type > "$T/log" 2>&1 &&
        "$DBRX" -m "$T/q.gguf" -s max_tokens=8 -s temperature=0 -c "Once upon a time" > "$T/out" 2> "$T/log" &&
        grep -q 'there was a' "$T/out"
    verdict $? "nano as $type goes on as stories do"
    "$DBRX" quantize "$T/nano/m.gguf" "$T/r.gguf" --type $type > "$T/log" 2>&1
    tail -c 1000000 "$T/q.gguf" > "$T/a"
    tail -c 1000000 "$T/r.gguf" | cmp - "$T/a" > "$T/log" 2>&1
    verdict $? "... and the same from its GGUF file"
done
"$DBRX" quantize "$srcdir/models/nano" "$T/q.gguf" --type q4_0 --keep 'blk.0.*=q8_0' --keep 'output.weight=f16' --json > "$T/out" 2> "$T/log" &&
    grep -q '"part":"lm_head","type":"F16"' "$T/out" && grep -q '"type":"Q8_0"' "$T/out"
verdict $? "--keep"

# what goes wrong leaves nothing behind
refuses() { # NAME SENTENCE ARGUMENT...
    what=$1 sentence=$2
    shift 2
    "$DBRX" "$@" > "$T/log" 2>&1
    status=$?
    test $status != 0 && grep -qF -- "$sentence" "$T/log"
    verdict $? "$what"
}
mkdir "$T/full"
touch "$T/full/x"
refuses "a directory that is not empty" "is there already, and not empty" convert "$T/nano/m.gguf" "$T/full"
refuses "no folder to write to" "cannot be written" quantize "$srcdir/models/nano" "$T/none/x.gguf" --type q8_0
refuses "a type that is none" 'there is no type "q9"' quantize "$srcdir/models/nano" "$T/x.gguf" --type q9
refuses "no type" "wants --type" quantize "$srcdir/models/nano" "$T/x.gguf"
refuses "no checkpoint" "cannot be opened" convert "$T/nothing" "$T/x.gguf"
refuses "a device as output" "cannot be written" quantize "$srcdir/models/nano" /dev/full --type q8_0
refuses "an importance matrix that is none" "is no importance matrix" quantize "$srcdir/models/nano" "$T/x.gguf" --type q8_0 --imatrix "$T/nano/m.gguf"
head -c 20000000 "$T/nano/m.gguf" > "$T/cut.gguf"
refuses "a file cut short" "it is truncated" -m "$T/cut.gguf" -c /stats
ls "$T" | grep -E '^x|\.......$' > "$T/log"
test ! -s "$T/log"
verdict $? "... and none of them left a file"
echo "1..$n"
exit $fail
