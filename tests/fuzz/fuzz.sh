#!/bin/sh
# fuzz.sh SECONDS [TARGET...] -- each fuzz target for so long, one process at a time, from what
# is kept of it in tests/fuzz/corpus on; then lines of commands.  Runs in the build folder.
# What it found new stays in fuzz/TARGET, what made a target fall in fuzz/crashes; fuzz/log gets
# a line a target: date, target, seconds, executions, crashes.
set -u
srcdir=${srcdir:-..}
seconds=$1; shift
targets=${*:-$(./tests/fuzz/fuzzer --targets) commands}
mkdir -p fuzz/crashes
fell=0
for t in $targets; do
    begin=$(date +%s) n=0 bad=0
    if [ "$t" = commands ]; then
        while [ $(($(date +%s) - begin)) -lt "$seconds" ]; do
            seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
            if ! ./tests/fuzz/commands "$seed" 1000 > fuzz/commands.out 2>&1; then
                bad=$((bad + 1)); cp fuzz/commands.out "fuzz/crashes/commands-$seed"
            fi
            n=$((n + 1000))
        done
    else
        mkdir -p "fuzz/$t"
        FUZZ_TARGET=$t ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 nice -n 19 ./tests/fuzz/fuzzer \
            -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
            -artifact_prefix="fuzz/crashes/$t-" -print_final_stats=1 -verbosity=1 \
            "fuzz/$t" "$srcdir/tests/fuzz/corpus/$t" > "fuzz/$t.out" 2>&1 || bad=1
        n=$(sed -n 's/^stat::number_of_executed_units: *//p; s/^#\([0-9]*\).*/\1/p' "fuzz/$t.out" | tail -n 1)
    fi
    echo "$(date +%FT%T) $t $(($(date +%s) - begin)) ${n:-0} $bad" >> fuzz/log
    echo "$t: ${n:-0} executions, $bad crashes"
    [ "$bad" = 0 ] || { fell=1; [ "$t" = commands ] || tail -n 40 "fuzz/$t.out" | grep -aE 'ERROR|does not hold|SUMMARY|said|#[0-9]+ ' | head -n 12; }
done
exit $fell
