#!/bin/sh
# The cuda backend over a CUDA driver that goes wrong in every way it knows (libcuda.cc): one sentence
# each, the backend that was in use goes on, and nothing falls back to the CPU in silence.  Runs
# the module built for this test and, where there is one, the real cuda.so.
n=0 fail=0
T=$(mktemp -d) || exit 99
trap 'rm -rf "$T"' EXIT
verdict() { # STATUS NAME
    n=$((n + 1))
    if test "$1" = 0; then echo "ok $n - $which: $2"; else
        fail=1
        echo "not ok $n - $which: $2"
        head -20 "$T/out" | sed 's/^/# /'
    fi
}
dbrx() { # FAKE_CUDA ARGUMENTS...
    word=$1
    shift
    DBRX_MODULE_PATH=$path LD_LIBRARY_PATH=$FAKE/../driver/.libs FAKE_CUDA=$word "$DBRX" -s temperature=0 -s max_tokens=4 -m "$model" "$@"
}
# ref speaks, cuda is asked for, ref goes on: as if nothing had been but for one sentence
refused() { # FAKE_CUDA SENTENCE NAME [OPTIONS]
    dbrx "$1" -b ref -s on_error=continue -c '/feed 5 17 300' -c "/backend cuda ${4-}" -c /continue -c '/stats' > "$T/text" 2> "$T/out"
    status=$?
    test $status = 3 && test "$(grep -c '^dbrx:' "$T/out")" = 1 && grep -qE "$2" "$T/out" && grep -q 'still on ref' "$T/out" &&
        ! grep -qE '.{330}' "$T/out"
    verdict $? "$3"
}
# ... without a word about the backend it is told which cannot run: exit code 5
unusable() { # FAKE_CUDA SENTENCE NAME
    refused "$1" "$2" "$3"
    dbrx "$1" -b cuda -c '/feed 5' > "$T/text" 2> "$T/out"
    test $? = 5 && grep -qE "$2" "$T/out" && ! grep -q . "$T/text"
    verdict $? "... and -b cuda ends with it, on no other backend"
}
model=$srcdir/tests/data/tiny-bf16
feed='/feed 5 17 300'

for path in "$FAKE" ""; do
    which=cuda-of-the-tests
    if test -z "$path"; then
        which=cuda.so
        test -e "$MODULES/cuda.so" || break
    fi

    # all is well: what the emulated driver computes is what ref says
    dbrx "" -b ref -c "$feed" -c /continue -c '/tokens' > "$T/a" 2> "$T/out"
    dbrx "" -b cuda -c "$feed" -c /continue -c '/tokens' > "$T/b" 2>> "$T/out"
    test -s "$T/a" && cmp "$T/a" "$T/b" >> "$T/out" 2>&1
    verdict $? "gpu.c runs streams, copies, graphs: the same tokens as ref"
    dbrx devices=3,capability0=75 -b ref -c /backend > "$T/out" 2>&1
    grep -q '2 x Fake 1 (9.0)\|Fake 1 (9.0), Fake 2 (9.0)' "$T/out" && ! grep -q 'Fake 0' "$T/out"
    verdict $? "a device that is too old is passed over, the others are named"
    DBRX_MODULE_PATH=$path LD_LIBRARY_PATH=$FAKE/../driver/.libs FAKE_CUDA=devices=3,capability0=75 "$DBRX" inspect \
        --plan cuda "$model" > "$T/out" 2>&1
    grep -q '^device 1, Fake 1' "$T/out"
    verdict $? "... and so does the plan"

    unusable devices=0 "there is no GPU that it can use" "a driver, but no device"
    unusable version=11040 "driver is too old: it knows CUDA 11.4, this was built with 1[0-9]\.[0-9]+: update it" \
        "a driver older than the toolkit"
    unusable capability=75 "Fake 0 has compute capability 7.5, 8.0 is needed" "a device that is too old"
    unusable mode=2 "closed to programs \(nvidia-smi -i 0 -c DEFAULT opens it\)" "compute mode: prohibited"
    unusable "cuDevicePrimaryCtxRetain@1=46!" "it is busy, another process has it to itself" "a device that another has to itself"
    unusable cuInit@1=803 "different versions: reboot" "library and kernel module do not go together"
    unusable cuInit@1=304 "may this user open /dev/nvidia" "no access to the device's files"
    unusable cuInit@1=34 "toolkit's stub" "the toolkit's stub for a driver"
    unusable cuInit@1=999 "does not start: an error that only the driver knows \(CUDA error 999\)" "an error nobody knows"
    refused devices=2 "gpus: there is no device 7, the last one is 1" "a wrong number of a device" gpus=7
    refused devices=2,capability0=75 "Fake 0 has compute capability 7.5" "a device that is too old, by number" gpus=0
    refused "" "gpus must be numbers" "something else than numbers" gpus=zero
    for code in "200 cannot read the kernels" "209 not built for such a device" "218 cannot compile the kernels" \
        "221 libnvidia-ptxjitcompiler" "222 older than the CUDA Toolkit"; do
        refused "cuModuleLoadData@1=${code%% *}" "${code#* }" "kernels that the driver will not take (${code%% *})"
    done
    refused cuModuleGetFunction@3=500 "device 0 cannot be opened" "a kernel that is not there"

    # what breaks in the midst of loading
    refused 'cuStreamSynchronize@9=214!' "uncorrectable ECC error.*nvidia-smi -r" "the memory fails while weights are loaded"
    refused 'cuLaunchKernel@5=719!' "stopped in the middle of a kernel" "a launch fails while weights are loaded"
    refused 'cuMemcpyAsync@5=911!' "the device was lost" "the device falls off the bus while weights are loaded"
    refused memory=1500000 "do not fit into the 1.5 MB that are free" "too little memory" offload=none

    # ... and in the midst of a reply: the backend is gone, and says so; the conversation goes on elsewhere
    for code in "700 read or wrote outside its memory" "719 stopped in the middle" "214 uncorrectable ECC" "46 it is busy" \
        "709 reset by somebody else"; do
        dbrx "cuGraphLaunch@3=${code%% *}!" -b cuda -s on_error=continue -c "$feed" -c /continue -c /continue \
            -c '/backend ref' -c /continue > "$T/text" 2> "$T/out"
        status=$?
        grep -q "${code#* }" "$T/out" && grep -q "now on ref" "$T/out" "$T/text" && test $status = 3
        verdict $? "lost in a reply (${code%% *}): said, and ref goes on"
    done

    # no memory at each allocation of the device, and at each of pinned memory
    for f in cuMemAlloc cuMemHostAlloc; do
        at=1 bad=0
        while test $at -lt 200; do
            dbrx "$f@$at=2" -b ref -s on_error=continue -c "$feed" -c '/backend cuda' -c /continue > "$T/text" 2> "$T/out"
            status=$?
            test $status != 0 || break
            test $status = 3 && grep -qE 'no [0-9.]+ MB left .*end what else uses it.*still on ref' "$T/out" &&
                test "$(grep -c '^dbrx:' "$T/out")" = 1 || { bad=1; break; }
            at=$((at + 1 + at / 4))
        done
        test $bad = 0 && test $at -gt 2 && test $at -lt 200
        verdict $? "no memory at any $f (up to the ${at}th): a sentence, and ref goes on"
    done
done

# whatever driver is on this machine is hidden behind a file that is no library
which=cuda-of-the-tests path=$FAKE
mkdir "$T/none"
: > "$T/none/libcuda.so.1"
DBRX_MODULE_PATH=$FAKE LD_LIBRARY_PATH=$T/none "$DBRX" -m "$model" -b ref -c '/backend cuda' > "$T/text" 2> "$T/out"
test $? = 3 && grep -q "cuda cannot run here: libcuda.so.1 cannot be loaded: .*file too short" "$T/out"
verdict $? "a libcuda.so.1 that is none"
echo "1..$n"
exit $fail
