#!/bin/sh
# The program as a filter: runs the groups of cases.test on every backend of $ON, as each.sh does
# with the other scripts: those that name $B on each of them, the others on the first, and all of
# them under the shims, which watch how the shell treats a backend.  No terminal anywhere.
cases=$srcdir/tests/cli/cases.test
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
HOME=$T; export HOME
printf 'Once upon a time, there was a little girl named Lily.\n' > "$T/lily"
printf '/feed 930 739\n\n/feed 259\r\n/route' > "$T/script"
printf '/feed 930\n/set temprature 1\n/quit\n' > "$T/failing"
echo 'no shared object' > "$T/broken.so"
printf '/feed 930\n/nonsense\n/feed 739\n' > "$T/wrong"
printf '"""\nOnce upon\na time\n"""\n' > "$T/block"
printf '"""\n/x is text\n"""\n""""""\n' > "$T/slashes"
printf 'Once upon\\\na time\n' > "$T/joined"
printf '/feed 930\n"""\nnever\nclosed\n' > "$T/open"
printf 'hanging \\\n' > "$T/hanging"
printf '/source %s/cycle2\n' "$T" > "$T/cycle"
printf '/source %s/cycle\n' "$T" > "$T/cycle2"
printf '#!/bin/sh\ncat "%s/lily" > "$1"\n' "$T" > "$T/editor"
chmod +x "$T/editor"
printf '  \t \nOnce\n' > "$T/blanks"
: > "$T/nothing"
mkfifo "$T/pipe"
unset VISUAL
EDITOR=$T/editor
export EDITOR
printf 'root ::= ("yes" | "no") ", " [a-z ]{5,30} "."' > "$T/yes.gbnf"
printf 'root ::= "a" |\n  [b' > "$T/bad.gbnf"
printf '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "pets":
{"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 3}}, "required": ["name", "pets"]}' > "$T/pet.json"
printf '{"properties": {"a": {"not": {}}}}' > "$T/not.json"
printf '{"type":\n}' > "$T/bad.json"
{ printf '{"prompt":"%s"}\n\n' "$(cat "$T/lily")"
  printf '{"id":"two","prompt":"Once upon a time, there was a little girl named Lily. She loved","settings":{"max_tokens":2}}\n'
} > "$T/batch"
printf '{"prompt":"Once"}\nnonsense\n{"id":[],"prompt":"a"}\n{"prompt":"last"}' > "$T/bad"
# modules that cannot run, each for its own reason
mkdir "$T/m"
module() { # NAME CODE
    printf '%s\n' "$2" > "$T/m/$1.c"
    $CC -I"$srcdir" -shared -fPIC -o "$T/m/$1.so" "$T/m/$1.c"
}
module future 'const struct { unsigned n; unsigned short major, minor; } dbrx_module = { 99, 2, 0 };'
module needs '#include "plugins/abi.h"
int more(void); const void *get(const char *id) { (void)id; return more() ? (const void *)0 : 0; }
DBRX_EXPORT const struct dbrx_module_info dbrx_module = { sizeof dbrx_module, 1, 0, "needs", "1", "x", get };'
module other 'int nothing;'
cp "$srcdir/tests/unit/elsewhere.c" "$T/m/" && $CC -I"$srcdir" -shared -fPIC -o "$T/m/elsewhere.so" "$T/m/elsewhere.c"
printf '{"text":"Once"}\n[1]\n' > "$T/bad.jsonl"
# a model that has the bundled one's name and is another
mkdir -p "$T/other/nano"
ln -s "$srcdir"/models/nano/* "$T/other/nano/"
rm "$T/other/nano/config.json"
sed 's/"rope_theta": *[0-9.]*/"rope_theta": 12345/' "$srcdir/models/nano/config.json" > "$T/other/nano/config.json"
exec 3>&1
n=0 bad=0

report() { # pass? name
    n=$((n + 1))
    if test "$1" = 0; then
        echo "ok $n - $2" >&3
    else
        bad=1
        echo "not ok $n - $2" >&3
        echo "# exit $got, wanted $status; wanted: $want" >&3
        sed 's/^/# out: /' "$T/out" | head -20 >&3
        sed 's/^/# err: /' "$T/err" | head -20 >&3
    fi
}

run() { # one group, with $B set
    (test "$on" != shim || export DBRX_MODULE_PATH="$AS" SHIM_LOG="$T/shim.log"
     eval "set -- \"\$B\"; \"\$DBRX\" $args") > "$T/out" 2> "$T/err" < "${input:-/dev/null}"
    got=$?
    eval "text=\"$(printf '%s' "${want#?}" | sed 's/[\\"`]/\\&/g; s/\$\([^BTs]\|$\)/\\$\1/g')\""
    pass=1
    if test "$got" = "$status"; then
        case $want in
        =*) printf "$(printf '%s' "$text" | sed 's/%/%%/g')" | cmp -s - "$T/out" && pass=0 ;;
        ~*) grep -Eq -- "$text" "$T/out" && pass=0 ;;
        !*) grep -Eq -- "$text" "$T/err" && { test ! -s "$T/out" && pass=0; } ;;
        esac
    fi
    report $pass "$on: dbrx $args"
}

first=${ON:-ref}
first=${first%% *}
for on in ${ON:-ref cpu-blas shim}; do
    B=$on
    test "$on" != shim || B=cpu-blas
    while read -r args; do
        case $args in '' | '#'*) continue ;; esac
        read -r status
        IFS= read -r want
        case $on,$args in
        *'$B'* | $first,* | shim,*) run ;;
        esac
    done < "$cases"
done

# the shims saw no broken rule: handles, overlapping calls, what a backend may be asked
if test -e "$T/shim.log"; then
    grep '^violation' "$T/shim.log" > "$T/out"
    test ! -s "$T/out" && grep -q '^eval' "$T/shim.log"
    got=$? status=0 want="no violation"
    report $got "the shell keeps the backend contract"
fi

# every command of the table occurs above
for name in $("$DBRX" --help-commands | sed -n 's/^- `\/\([a-z]*\).*/\1/p'); do
    grep -q -- "^-.*'*/$name" "$cases"
    status=0 got=$? want="a group in cases.test"
    report $got "/$name is exercised"
done

# the README's list is the table's
if grep -q '^- `/help' "$srcdir/README.md"; then
    "$DBRX" --help-commands | grep '^- ' > "$T/table"
    grep '^- `/' "$srcdir/README.md" > "$T/readme"
    diff "$T/table" "$T/readme" > "$T/out"
    status=0 got=$? want="the lines of dbrx --help-commands"
    report $got "README.md lists the commands of the table"
fi

echo "1..$n"
exit $bad
