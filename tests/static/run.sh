#!/bin/sh
# run.sh [cppcheck|clang-tidy...]: what reads the sources and finds fault with them, as far as it is
# installed; all of it unless named.  .clang-tidy and cppcheck.supp say what is left out, and why.
# Run in the build folder, for config.h and what is made; SIMD and INCLUDES come from make.
here=$(cd "$srcdir/tests/static" && pwd)
status=0
say() { echo "check-static: $*"; }
files=$(cd "$srcdir" && find backends tokenizer repl plugins -name '*.c' | sort)
test -n "${CUDA-}" || files=$(echo "$files" | grep -v '^backends/cuda/\(gpu\|driver\)\.c$')   # want cuda.h
count=$(echo "$files" | wc -l)
defines="-DHAVE_CONFIG_H -DPKGLIBDIR=\"x\" -DPKGDATADIR=\"x\" -DKERNELS_FATBIN=\"x\""

for tool in ${*:-cppcheck clang-tidy}; do
    if ! command -v "$tool" >/dev/null; then
        say "no $tool: left out; Debian: apt-get install $tool"
        continue
    fi
    log=check-$tool.log
    case $tool in
    cppcheck)
        (cd "$srcdir" && cppcheck --quiet --enable=warning,portability,performance --std=c11 --error-exitcode=1 \
            --suppressions-list="$here/cppcheck.supp" -I. -D__x86_64__ -D__linux__ \
            '-DcJSON_ArrayForEach(e,a)=for(e=a->child;e;e=e->next)' $defines $files) >$log 2>&1 ;;
    clang-tidy)
        # as many at once as there are processors; a file's complaints stay together
        echo "$files" | xargs -P "$(nproc 2>/dev/null || echo 2)" -I FILE sh -c '
            file=$1; shift
            case $file in backends/cpu-blas/*) ;; *) SIMD= ;; esac
            out=$(clang-tidy --quiet "$srcdir/$file" -- -std=gnu11 -I. -I"$srcdir" $SIMD $INCLUDES "$@" 2>&1) ||
                { printf "%s\n" "$out"; exit 1; }' sh FILE $defines >$log 2>&1 ;;
    *) say "$tool is none of cppcheck, clang-tidy"; exit 2 ;;
    esac
    if test $? = 0; then
        say "$tool finds nothing in $count files"
    else
        grep -E '(error|warning|portability|performance|style): ' $log | sort -u >&2 || tail -n 20 $log >&2
        say "$tool finds fault: $PWD/$log"
        status=1
    fi
done
exit $status
