#!/bin/sh
# gguf.c once more with AddressSanitizer and UndefinedBehaviorSanitizer, and more mutations.
test -z "${SANITIZER-}" || { echo "1..0 # SKIP tests/unit/gguf runs with a sanitizer as it is"; exit 0; }
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
flags="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I$srcdir $($PKG_CONFIG --cflags libcjson)"
echo 'int main(void) { return 0; }' > "$T/t.c"
if ! $CC $flags "$T/t.c" -o "$T/t" 2> "$T/log" || ! "$T/t" 2>> "$T/log"; then
    echo "1..1"
    echo "ok 1 # SKIP the compiler has no sanitizers"
    exit 0
fi
if ! $CC $flags "$srcdir"/tests/unit/gguf.c "$srcdir"/backends/model/*.c "$srcdir"/backends/graph/dtype.c \
     "$srcdir"/backends/graph/dequant.c $($PKG_CONFIG --libs libcjson) -lm -o "$T/gguf" 2> "$T/log"; then
    sed 's/^/# /' "$T/log"
    echo "Bail out! gguf.c does not build with sanitizers"
    exit 99
fi
"$T/gguf" "${MUTATIONS-20000}" 7 2> "$T/err"
status=$?
sed 's/^/# /' "$T/err"
exit $status
