#!/bin/sh
# What the tables are printed as: --help, the man page, the completions.
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
n=0 bad=0
verdict() { # STATUS NAME, details in $T/log
    n=$((n + 1))
    if test "$1" = 0; then
        echo "ok $n - $2"
    else
        bad=1
        echo "not ok $n - $2"
        head -20 "$T/log" | sed 's/^/# /'
    fi
}
skip() { n=$((n + 1)); echo "ok $n # SKIP $1"; }
: > "$T/log"

"$DBRX" --help > "$T/help"
test "$(wc -l < "$T/help")" -le 24
verdict $? "--help fits a screen of 24 lines"
! grep -E '.{81}' "$T/help" > "$T/log"
verdict $? "... and 80 columns"

"$DBRX" --help-man > "$T/dbrx.1"
sed 's/\\-/-/g' "$T/dbrx.1" > "$T/plain"
for word in $("$DBRX" --help-commands | sed -n 's/^- `\(\/[a-z]*\).*/\1/p') \
            $("$DBRX" -c /set | sed -n 's/^\([a-z_]*\) .*/\1/p' | grep -v setting) \
            $(sed -n 's/.* \(--[a-z-]*\) .*/\1/p' "$T/help"); do
    grep -qF "\\fB$word\\fR" "$T/plain" || grep -qF -- ", $word\\fR" "$T/plain" || echo "$word"
done > "$T/log"
test ! -s "$T/log"
verdict $? "the man page has every command, setting and option"
if man --version 2>/dev/null | grep -q 'man 2'; then
    LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$T/dbrx.1" > /dev/null 2> "$T/log"
    test ! -s "$T/log"
    verdict $? "man has no warnings"
else
    skip "no man-db"
fi
if command -v mandoc > /dev/null; then
    mandoc -Tlint -Wwarning "$T/dbrx.1" > "$T/log" 2>&1
    verdict $? "mandoc has no warnings"
else
    skip "no mandoc"
fi

"$DBRX" --help-completion bash > "$T/bash"
if command -v bash > /dev/null; then
    cat > "$T/ask" << 'END'
. "$1"
ask() { # the words typed, the last one unfinished
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _dbrx dbrx "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2> /dev/null
    echo "${COMPREPLY[*]}"
}
ask dbrx --mod; ask dbrx -s tempe; ask dbrx -s mode =; ask dbrx -s mode = ch; ask dbrx ins; ask dbrx -c te
ask "$DBRX" -b ''; ask "$DBRX" -b r; ask "$DBRX" perplexity --backend cp; ask dbrx "$T/hel"
END
    backends='cpu-blas ref'
    test ! -e "$MODULES/cuda.so" || backends='cpu-blas cuda ref'
    printf '%s\n' '--model --module-path' 'temperature=' 'base chat' chat inspect '' "$backends" ref cpu-blas "$T/help" > "$T/want"
    T=$T bash "$T/ask" "$T/bash" > "$T/got" 2>&1
    diff "$T/want" "$T/got" > "$T/log"
    verdict $? "bash completes options, settings, values, tools and backends"
else
    skip "no bash"
fi
"$DBRX" --help-completion zsh > "$T/zsh"
if command -v zsh > /dev/null; then
    zsh -n "$T/zsh" 2> "$T/log"
    verdict $? "zsh reads its completion"
    cat > "$T/zask" << 'END'
compadd() { shift; print -r -- $*; }
_arguments() { :; }
words=("$DBRX" -b ''); CURRENT=3
. "$1"
dbrx=$DBRX; _dbrx_backends
END
    zsh -f "$T/zask" "$T/zsh" > "$T/log" 2>&1
    grep -qxE 'cpu-blas( cuda)? ref' "$T/log"
    verdict $? "... and finds the backends"
else
    skip "no zsh"
fi
"$DBRX" --help-completion fish > "$T/log" 2>&1
test $? = 2
verdict $? "no other shell is promised"
echo "1..$n"
exit $bad
