#!/bin/sh
# What configure asked compiler and linker for is in the program and in every module; the same
# eyes see that it is missing from a program that was built without.
no() { echo "1..0 # SKIP $1"; exit 0; }
command -v readelf >/dev/null || no "no readelf"
case $HARDENED in *-*) ;; *) no "built with --disable-hardening" ;; esac
test -z "${SANITIZER-}" || no "a build with sanitizers has none of it"
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

# has WHAT FILE
has() {
    case $1 in
    "full RELRO")           readelf -Wl "$2" | grep -q GNU_RELRO && readelf -Wd "$2" | grep -q 'BIND_NOW\|Flags:.*NOW' ;;
    "a stack not executed") readelf -Wl "$2" | grep -q 'GNU_STACK.* RW ' ;;
    "no segment written and executed") ! readelf -Wl "$2" | grep -q 'LOAD.* RWE ' ;;
    "no relocated code")    ! readelf -Wd "$2" | grep -q TEXTREL ;;
    "stack protectors")     readelf -W --dyn-syms "$2" | grep -q __stack_chk_fail ;;
    "checked string functions") readelf -W --dyn-syms "$2" | grep -q '__\(mem\|str\|v\?s\?n\?printf\|[a-z]*printf\)[a-z]*_chk' ;;
    "any address (PIE)")    readelf -Wh "$2" | grep -q 'Type: *DYN' ;;
    esac
}
n=0
check() {
    n=$((n + 1))
    if "$@"; then echo "ok $n - $label"; else echo "not ok $n - $label"; fi
}
hasnt() { ! has "$@"; }

# asked_for WHAT: did configure find that the tools know it?
asked_for() {
    case $1 in
    "full RELRO")           case $HARDENED in *relro,-z,now*) ;; *) return 1 ;; esac ;;
    "stack protectors")     case $HARDENED in *stack-protector*) ;; *) return 1 ;; esac ;;
    "checked string functions") case $HARDENED in *FORTIFY*) ;; *) return 1 ;; esac ;;
    "any address (PIE)")    case $HARDENED in *-pie*) ;; *) return 1 ;; esac ;;
    esac
}

printf '#include <stdio.h>\nint main(int n, char **v) { char s[99]; sprintf(s, "%%s", v[0]); return s[n]; }\n' >"$tmp/bare.c"
$CC -O1 -fno-stack-protector -U_FORTIFY_SOURCE -no-pie -Wl,-z,norelro,-z,lazy,-z,execstack -o "$tmp/bare" "$tmp/bare.c" 2>"$tmp/log" ||
    no "$CC cannot build without"
for what in "full RELRO" "a stack not executed" "stack protectors" "checked string functions" "any address (PIE)" \
    "no segment written and executed" "no relocated code"; do
    if ! asked_for "$what"; then
        n=$((n + 1))
        echo "ok $n # SKIP $what: not known to $CC, or not wanted"
        continue
    fi
    for file in "$DBRX" "$MODULES"/*.so; do
        label="$(basename "$file"): $what"
        check has "$what" "$file"
    done
    case $what in "no "*) continue ;; esac
    label="not so a program built without: $what"
    check hasnt "$what" "$tmp/bare"
done
echo "1..$n"
