#!/bin/sh
# Who may include whom (docs: the design's arrows), and who may speak: nothing below the shell
# prints, exits, reads the environment or handles signals.
cd "$srcdir" || exit 99
n=0

# verdict LABEL OFFENCES
verdict() {
    n=$((n + 1))
    if test -z "$2"; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        echo "$2" | sed 's/^/# /'
    fi
}

sources() { find "$@" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | sort; }

# allow LABEL "FILES" ERE: each #include "..." in the files matches the expression
allow() {
    files=$2
    test -n "$files" || return 0
    verdict "$1" "$(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' /dev/null $files |
                    grep -vE "\"($3)\"")"
}

graph='backends/graph/[a-z_0-9]+\.h'
doors='plugins/(abi|fail|loader|observer|proportion)\.h|backends/backend\.h|backends/model/(checkpoint|gguf_write|imatrix|quant)\.h|backends/graph/(dtype|dequant)\.h|tokenizer/(tokenizer|chat|utf8)\.h'
core='repl/engine.[ch] repl/divergence.[ch] repl/comparison.[ch] repl/machine.[ch] repl/measure.[ch]
      repl/dispatch.[ch] repl/session.[ch] repl/sampler.[ch] repl/processors.[ch] repl/filters.[ch]
      repl/beam.[ch] repl/trace.[ch] repl/spans.[ch] repl/timeline.[ch] repl/stops.[ch]
      repl/grammar/*.[ch]'
instruments=$(find plugins -mindepth 2 -name '*.[ch]')

allow "plugins/abi.h includes nothing of ours" plugins/abi.h 'nothing'
allow "backends/backend.h includes the ABI" backends/backend.h 'plugins/abi\.h'
allow "plugins/observer.h includes the ABI and backend.h" plugins/observer.h \
    'plugins/abi\.h|backends/backend\.h'
allow "the loader knows modules only" "$(ls plugins/loader.[ch] plugins/fail.h)" \
    'plugins/(abi|fail|loader)\.h'
allow "instruments see the installed headers" "$instruments" \
    'config\.h|plugins/[a-z-]+/[a-z_0-9]+\.h|plugins/(abi|fail|observer|proportion)\.h|backends/backend\.h'
allow "backends/model knows no backend" "$(sources backends/model)" \
    'config\.h|backends/model/[a-z_0-9]+\.h|backends/graph/(dtype|dequant)\.h|backends/backend\.h|plugins/(abi|fail)\.h'
allow "backends/graph knows no backend, no checkpoint" "$(sources backends/graph)" \
    "$graph|backends/backend\\.h|plugins/(abi|fail)\\.h"
for dir in backends/*/; do
    b=$(basename "$dir")
    case $b in graph|model) continue ;; esac
    allow "backends/$b sees graph and itself" "$(sources "$dir")" \
        "config\\.h|$graph|backends/$b/[a-z_0-9]+\\.(cu)?h|backends/backend\\.h|plugins/(abi|fail)\\.h"
done
allow "tokenizer knows no model" "$(sources tokenizer)" \
    'config\.h|tokenizer/[a-z_0-9]+\.h|plugins/(abi|fail)\.h'
allow "the shell's core does not know its surface" "$(ls $core 2>/dev/null)" \
    "config\\.h|repl/(clock|engine|mapped|divergence|comparison|machine|measure|dispatch|session|sampler|processors|filters|beam|trace|timeline|spans|stops)\\.h|repl/grammar/[a-z_]+\\.h|$doors"
allow "grammars know bytes and vocabularies only" "$(sources repl/grammar)" \
    'repl/grammar/[a-z_]+\.h|plugins/(abi|fail)\.h|tokenizer/tokenizer\.h'
allow "the shell enters by the front doors" "$(sources repl)" "config\\.h|repl/(grammar/)?[a-z_0-9]+\\.(h|inc)|$doors"

# code FILES: without comments and the insides of strings, each line with its place
code() {
    awk '{
        line = $0; out = ""
        if (FNR == 1) inside = 0
        while (length(line)) {
            mark = inside ? "*/" : "/*"
            i = index(line, mark)
            if (!inside) out = out (i ? substr(line, 1, i - 1) : line)
            line = i ? substr(line, i + 2) : ""
            if (i) inside = !inside
        }
        gsub(/"([^"\\]|\\.)*"/, "\"\"", out)
        print FILENAME ":" FNR ":" out
    }' "$@"
}

words='v?f?d?printf|puts|putchar|putc|fputs|fputc|putc_unlocked|perror|psignal|err|errx|warn|warnx'
words="$words|exit|_exit|_Exit|quick_exit|abort|getenv|secure_getenv"
words="$words|signal|sigaction|sigprocmask|pthread_sigmask|raise|setlocale|uselocale"
below="$(sources plugins backends tokenizer) $(ls $core 2>/dev/null)"
verdict "nothing below the shell prints, exits, reads the environment or handles signals" \
    "$(code $below | grep -E "(^|[^A-Za-z0-9_>.])($words)[[:space:]]*\\(")"
verdict "nothing below the shell names a standard stream" \
    "$(code $below | grep -E '(^|[^A-Za-z0-9_])(stdin|stdout|stderr|STD(IN|OUT|ERR)_FILENO)([^A-Za-z0-9_]|$)')"
echo "1..$n"
