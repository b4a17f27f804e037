#!/bin/sh
# A backend written elsewhere: installs into an empty root, builds a module with nothing but
# what pkg-config says is there; the loader takes it, the installed conformance test judges it.
n=0
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

# verdict STATUS LABEL: one check, with the log when it failed
verdict() {
    n=$((n + 1))
    if test "$1" = 0; then echo "ok $n - $2"; else
        echo "not ok $n - $2"
        tail -20 "$tmp/log" | sed 's/^/# /'
    fi
}

MAKEFLAGS= ${MAKE:-make} -C "$builddir" install DESTDIR="$tmp/root" >"$tmp/log" 2>&1
verdict $? "make install DESTDIR="

pc=$(find "$tmp/root" -name dbrx.pc)
PKG_CONFIG_LIBDIR=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$tmp/root
export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR
unset PKG_CONFIG_PATH
cflags=$(${PKG_CONFIG:-pkg-config} --cflags dbrx 2>"$tmp/log")
verdict $? "pkg-config finds dbrx"
moduledir=$(${PKG_CONFIG:-pkg-config} --variable=moduledir dbrx)
moduledir=$tmp/root${moduledir#"$tmp/root"}
test -e "$moduledir/ref.so" 2>"$tmp/log"
verdict $? "moduledir holds the installed modules"

(cd "$tmp/root" && find . -name '*.h') | sed 's|.*/dbrx/||' | sort >"$tmp/log"
printf 'backends/backend.h\nplugins/abi.h\nplugins/observer.h\n' | cmp -s - "$tmp/log"
verdict $? "three headers are installed, and no more"
! find "$moduledir" ! -type d ! -name '*.so' | grep . >"$tmp/log"
verdict $? "moduledir holds nothing but modules"

cp "$srcdir/tests/unit/elsewhere.c" "$tmp/" && cd "$tmp" || exit 99
$CC -std=c11 -Wall -Wextra -Werror -shared -fPIC $cflags -o elsewhere.so elsewhere.c 2>"$tmp/log"
verdict $? "a module builds against the installed headers"
"$builddir/tests/conformance/conformance" "$tmp/elsewhere.so" >"$tmp/log" 2>&1 &&
    grep -q 'SKIP.*it is only an example' "$tmp/log"
verdict $? "the loader takes it and asks it"
mv elsewhere.so other.so
! "$builddir/tests/conformance/conformance" "$tmp/other.so" >"$tmp/log" 2>&1 &&
    grep -q 'file and module name differ' "$tmp/log"
verdict $? "but not under another name"

# ... and a whole one: the example of the documentation, held to the contract by the installed test
cp "$srcdir/docs/naive.c" . &&
    $CC -std=c11 -O2 -Wall -Wextra -Werror -shared -fPIC -fvisibility=hidden $cflags -o naive.so naive.c -lm 2>"$tmp/log"
verdict $? "the backend of writing-a-backend.md builds against them, too"
conformance=$(${PKG_CONFIG:-pkg-config} --variable=conformance dbrx)
conformance=$tmp/root${conformance#"$tmp/root"}
(unset MODULES; "$conformance" ./naive.so --oracle "$moduledir/ref.so") >"$tmp/log" 2>&1 &&
    grep -q '^ok .* - C121' "$tmp/log"
verdict $? "... and passes the installed conformance test"
sed -i 's/return s->pos;/return s->pos + (s->pos == 7);/' naive.c
$CC -std=c11 -O2 -shared -fPIC -fvisibility=hidden $cflags -o naive.so naive.c -lm 2>"$tmp/log"
! (unset MODULES; "$conformance" ./naive.so --oracle "$moduledir/ref.so" --only C21) >"$tmp/log" 2>&1 &&
    grep -q '^not ok .* - C21' "$tmp/log"
verdict $? "... which notices when it is wrong"
dbrx=$(find "$tmp/root" -name dbrx -type f -perm -u+x | head -1)
cp "$srcdir/docs/naive.c" . && $CC -std=c11 -O2 -shared -fPIC -fvisibility=hidden $cflags -o naive.so naive.c -lm
greedy() { HOME=$tmp "$dbrx" -m "$srcdir/models/nano" --module-path "$moduledir:$tmp" -s temperature=0 -s max_tokens=8 "$@"; }
greedy -b naive -c 'Once upon a time' >"$tmp/naive.out" 2>"$tmp/log" &&
    greedy -b ref -c 'Once upon a time' >"$tmp/ref.out" 2>>"$tmp/log" && cmp "$tmp/naive.out" "$tmp/ref.out" >>"$tmp/log" 2>&1
verdict $? "the installed dbrx talks through it, in the reference's words"
greedy -b ref -c 'Once upon a time' -c '/backend naive' -c '/backend' >"$tmp/log" 2>&1 &&
    grep -q 'now on naive; kv: recomputed (12 tokens)' "$tmp/log"
verdict $? "... a conversation moves there, and is computed again"

# the example instrument, as docs/writing-an-instrument.md says
mkdir "$tmp/mine" && cp "$srcdir/plugins/example/example.c" "$tmp/mine/" && cd "$tmp/mine" || exit 99
$CC -std=c11 -Wall -Wextra -Werror -shared -fPIC $cflags -o example.so example.c 2>"$tmp/log"
verdict $? "the example instrument builds against the installed headers"
"$DBRX" --module-path "$tmp/mine" -b ref -c '/feed 930 739 259 559' -c /first -c /undo -c /redo -c '/feed 11' -c /first \
    -c '/help first' -c /instruments >"$tmp/log" 2>&1
verdict $? "... runs"
"$DBRX" --module-path "$tmp/mine" --json -b ref -c '/feed 930 739 259 559' -c /first -c '/route 0..3 --list' >"$tmp/json"
sed -n 's/.*"table":"first".*"rows":\[{"layer":0,"first":\[\([0-9,]*\)\]}.*{"layer":5,.*/\1/p' "$tmp/json" |
    tr , '\n' | awk '{ n += $1 } END { print NR, n }' >"$tmp/log"
grep -qx '16 4' "$tmp/log"
verdict $? "... counts each token once, with a row a layer"
"$DBRX" --module-path "$tmp/mine:$builddir/modules" --json -b ref -c '/feed 930 739' -c '/experts reset' -c '/feed 5' -c /first >"$tmp/json"
sed -n 's/.*"table":"first".*"rows":\[{"layer":0,"first":\[\([0-9,]*\)\]}.*/\1/p' "$tmp/json" |
    tr , '\n' | awk '{ n += $1 } END { print NR, n }' >"$tmp/log"
grep -qx '16 1' "$tmp/log"
verdict $? "... begins anew when another instrument asks for it"
"$DBRX" --module-path "$tmp/mine" -b ref -c '/first nonsense' >"$tmp/log" 2>&1
grep -q 'it does not take that; usage: /first' "$tmp/log"
verdict $? "... leaves it to the host to refuse words"
sed 's|/\*.*\*/||' "$srcdir/plugins/example/example.c" | sed '1,/^#/{/^#/!d}' | grep -c '[^ ]' >"$tmp/log"
test "$(cat "$tmp/log")" -le 60
verdict $? "... and has the 60 lines that its page speaks of"
"$DBRX" --module-path "$tmp/mine" -b ref -c '/frist' >"$tmp/log" 2>&1
grep -q 'did you mean /first?' "$tmp/log"
verdict $? "... its command is suggested like any other"

# a tree that was built in place, as quickstart does, may be moved: its links go along
if grep -q '^top_srcdir = \.\.' "$builddir/Makefile"; then
    readlink "$builddir/models/nano" >"$tmp/log"
    grep -q '^\.\./' "$tmp/log"
    verdict $? "the build tree's link to the bundled model is relative"
fi
echo "1..$n"
