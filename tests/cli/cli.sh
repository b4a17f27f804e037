#!/bin/sh
# The program as a filter: runs the groups of cases.test, on every backend where they ask
# for one.  No terminal anywhere.
cases=$srcdir/tests/cli/cases.test
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
printf 'Once upon a time, there was a little girl named Lily.\n' > "$T/lily"
printf '/feed 930 739\n\n/feed 259\r\n/route' > "$T/script"
printf '/feed 930\n/set temprature 1\n/quit\n' > "$T/failing"
echo 'no shared object' > "$T/broken.so"
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
    (eval "set -- \"\$B\"; \"\$DBRX\" $args") > "$T/out" 2> "$T/err" < "${input:-/dev/null}"
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
    report $pass "${B:+$B: }dbrx $args"
}

groups() {
    while read -r args; do
        case $args in '' | '#'*) continue ;; esac
        read -r status
        IFS= read -r want
        case $args in
        *'$B'*) for B in ref cpu-blas; do run; done ;;
        *) B=; run ;;
        esac
    done < "$cases"
}
groups

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
