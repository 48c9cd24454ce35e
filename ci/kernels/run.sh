#!/usr/bin/env bash
# Run a program, or several, on another Linux kernel: in qemu, by software emulation. Root is not needed.
#
#   run.sh KERNEL PROGRAM [ARGS...]             KERNEL is the first word of a line of table.txt, or an image
#   run.sh --job SCRIPT KERNEL PROGRAM...       run a shell script there, with all these programs in /prog
#
# What is written there comes out on stdout. The exit status is the program's own; 124 if it was out of time; 125 if the
# kernel did not get that far or did not come back: its log is then on stderr. Programs may be linked dynamically, for what
# they are linked with comes along: so tests run as they were built for this machine, also by cargo.
#
#   CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/ci/kernels/run.sh 6.1" cargo test --test window
#
# Environment: TIMEOUT  seconds it may run (600)           SMP, MEM  virtual CPUs (2), MiB of memory (512)
#              APPEND   more kernel command line           VERBOSE   the kernel's log too, on stderr
#              RINGWATCH_*, RUST_*  are handed on
# Needs qemu-system-x86, busybox-static, cpio and binutils.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
job=
if [ "${1:-}" = --job ]; then
    job=$2
    shift 2
fi
[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/p}' "$0" >&2; exit 125; }
kernel=$1
shift
[ -f "$kernel" ] || kernel=$("$here/get.sh" "$kernel") || exit 125

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,prog,proc,sys,dev,tmp}
cp "$(command -v busybox)" "$root/bin/busybox"
install -m 755 "$here/init.sh" "$root/init"
if [ -n "$job" ]; then
    programs=("$@")
    cp "$job" "$root/job"
else
    programs=("$1")
    { printf 'exec /prog/%q' "${1##*/}"; [ $# -eq 1 ] || printf ' %q' "${@:2}"; echo; } > "$root/job"
fi
for program in "${programs[@]}"; do
    # Without what only a debugger reads: all has to fit into the guest's memory.
    strip --strip-debug -o "$root/prog/${program##*/}" "$program"
    # The loader, and the libraries it takes here. A static program has none.
    { ldd "$program" 2> /dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -Lu "$library" "$root$library"
    done
done
: > "$root/environment"
for variable in $(compgen -e | grep -E '^(RINGWATCH|RUST)_' || true); do
    printf 'export %s=%q\n' "$variable" "${!variable}" >> "$root/environment"
done
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) | gzip -1 > "$work/initrd"

# First serial port: what is written. Second: the kernel's log, and last the line with the exit status.
#
# Without cmpxchg16b: emulated by qemu 7.2 (Debian 12), it left the flags register full of rubbish, which the branch behind
# it then took for the outcome. The kernel's allocator (SLUB) uses it on 6.12, if the CPU has it, and that kernel panicked in
# each of four runs with it, on four models of CPU; in none of five without.
#
# no_timer_check: on a machine that is very busy, the kernel takes an emulated timer which is late for one that is broken.
#
# A kernel that panics before it runs anything has not met us: emulated, the breakpoint by which it alters its own code is hit
# now and then after it was taken away (`Oops: int3`), on a machine with several CPUs. So it is booted again, some times; also
# where that happened later, for nothing that a program does puts a breakpoint into the kernel.
limit=${TIMEOUT:-600}
for boot in 1 2 3 4 5; do
    timeout -k 5 "$((limit + 60))" qemu-system-x86_64 -accel tcg -cpu max,-cx16 -smp "${SMP:-2}" -m "${MEM:-512}" \
        -nodefaults -no-user-config -display none -no-reboot -serial stdio -serial "file:$work/log" \
        -kernel "$kernel" -initrd "$work/initrd" \
        -append "console=ttyS1 panic=-1 no_timer_check ringwatch_limit=$limit ${APPEND:-}" < /dev/null || true
    grep -aq 'Kernel panic' "$work/log" || break
    if ! grep -aq '^job begins' "$work/log"; then
        echo "${kernel##*/} panicked before it ran anything, at boot $boot" >&2
    elif grep -aq ' int3: 0000 ' "$work/log"; then
        echo "${kernel##*/} hit a breakpoint of its own that is no longer there, at boot $boot; all is run again" >&2
    else
        break
    fi
done

status=$(grep -aso 'exit-status=[0-9]*' "$work/log" | tail -n 1 | tr -dc 0-9 || true)
if [ -z "$status" ] || [ -n "${VERBOSE:-}" ]; then tr -d '\r' < "$work/log" >&2; fi
# So busybox says that it ended a program which was out of time.
[ "$status" != 143 ] || status=124
exit "${status:-125}"
