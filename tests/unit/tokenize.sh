# The tokenizer's two tools: ids, text byte for byte, exit codes, closed pipes.
tool=$builddir/tests/unit/tokenize-tool
data=$srcdir/tests/data/dbrx-tokenizer
tmp=$(mktemp -d ./tokenize.XXXXXX) || exit 99
trap 'rm -rf "$tmp"' EXIT
DEFAULT_MODEL=$srcdir/models/nano; export DEFAULT_MODEL
n=0
check() { # name, result of the test before
    n=$((n + 1))
    if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; fi
}
status() { # name, wanted status, text wanted on stderr, command...
    name=$1 want=$2 text=$3; shift 3
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null; rc=$?
    [ $rc = "$want" ] && { [ -z "$text" ] || grep -q -e "$text" "$tmp/err"; } \
        && { [ $rc = 0 ] || grep -q '^dbrx: ' "$tmp/err"; }; r=$?
    check "$name" $r
    [ $r = 0 ] || sed "s/^/# exit $rc: /" "$tmp/err"
}

printf 'hello world\n' >"$tmp/hello"
[ "$("$tool" tokenize -m "$data" "$tmp/hello" | tr '\n' ' ')" = "15339 1917 198 " ]; check "ids, one a line" $?
[ "$("$tool" tokenize --vocab "$data/cl100k_base.tiktoken" - <"$tmp/hello" | wc -l)" -eq 3 ]; check "--vocab and stdin" $?
[ "$(printf '<|im_end|>' | "$tool" tokenize -m "$data" --special -)" = 100279 ]; check "--special" $?
[ "$(printf '<|im_end|>' | "$tool" tokenize -m "$data" - | wc -l)" -gt 3 ]; check "plain by default" $?
[ "$(printf 'Once upon a time' | "$tool" tokenize - | head -1)" = 930 ]; check "the bundled model by default" $?
[ "$(: | "$tool" tokenize - | wc -c)" -eq 0 ]; check "nothing in, nothing out" $?
for f in "$srcdir/tokenizer/unicode_tables.h" "$srcdir/tests/data/cl100k_cases.jsonl"; do
    "$tool" tokenize -m "$data" "$f" | "$tool" detokenize -m "$data" - | cmp -s - "$f"
    check "there and back: ${f##*/}" $?
done
printf 'a\000b\000' >"$tmp/nul"
"$tool" tokenize "$tmp/nul" | "$tool" detokenize - | cmp -s - "$tmp/nul"; check "NUL bytes" $?
status "what is lost is said"     0 "not all of it is UTF-8" "$tool" tokenize "$(command -v sh)"
printf 'a\303' >"$tmp/cut"
status "... a cut-off end, too"   0 "not all of it is UTF-8" "$tool" tokenize "$tmp/cut"
"$tool" tokenize "$srcdir/tests/data/cl100k_cases.jsonl" 2>&1 >/dev/null | grep -q . ; [ $? = 1 ]; check "... and nothing where nothing is lost" $?
[ "$(printf '  15339\t1917\r\n100300' | "$tool" detokenize -m "$data" -)" = "hello world" ]; check "ids between any blanks; padding is empty" $?

status "no input"                 2 "no input"       "$tool" tokenize -m "$data"
status "two inputs"               2 "more than one"  "$tool" tokenize -m "$data" a b
status "unknown option"           2 "--frob"         "$tool" tokenize --frob -
status "option without value"     2 "-m"             "$tool" tokenize -m
status "both -m and --vocab"      2 "one of"         "$tool" tokenize -m a --vocab b -
status "--special is tokenize's"  2 "--special"      "$tool" detokenize --special -
status "a file that is not there" 3 "nowhere"        "$tool" tokenize -m "$data" "$tmp/nowhere"
status "a directory as input"     3 "$tmp"           "$tool" tokenize -m "$data" "$tmp"
status "no tokenizer there"       4 "nowhere"        "$tool" tokenize -m "$tmp/nowhere" "$tmp/hello"
status "a broken vocabulary"      4 "hello"          "$tool" detokenize --vocab "$tmp/hello" "$tmp/hello"
status "no bundled model"         4 "no bundled"     env -u DEFAULT_MODEL "$tool" tokenize "$tmp/hello"
status "help"                     0 ""               "$tool" tokenize --help
for bad in x -1 100352 99999999999999999999 15339x 1,2 +5; do
    printf '15339\n1917 198\n%s\n' "$bad" >"$tmp/ids"
    status "id $bad"              3 "line 3.*$bad"   "$tool" detokenize -m "$data" "$tmp/ids"
done
{ "$tool" tokenize -m "$data" "$srcdir/tests/data/cl100k_cases.jsonl" 2>"$tmp/err"; echo $? >"$tmp/rc"; } | head -1 >/dev/null
[ ! -s "$tmp/err" ] && [ "$(cat "$tmp/rc")" -ge 141 ]; check "a closed pipe ends it quietly" $?
if [ -c /dev/full ]; then
    "$tool" tokenize -m "$data" "$tmp/hello" >/dev/full 2>"$tmp/err"
    [ $? = 1 ] && grep -q 'No space' "$tmp/err"; check "a full disk is reported" $?
fi
echo "1..$n"
