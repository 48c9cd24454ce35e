#!/usr/bin/env bash
# Runs the tests on every kernel of kernels/table.txt, in qemu, two at a time; and where io_uring is switched off, where
# memory is short, and on one CPU. On each, what is chosen must be what the table says, and so must the README.
#
#   ci/kernels.sh [NAME...]        all runs, or those of these names (see `runs` below)
#
# What each writes is kept in target/kernels. Not run there:
# - build_watcher: it runs cargo, git, a shell and a terminal; watch: it tests an example, which is not taken there;
# - instructions: it runs valgrind;
# - the examples in the documentation: rustdoc compiles them as it runs them;
# - what counts seconds or gigabytes: benches, and the tests of benches/compare;
# - faults: some hundreds of processes;
# - hostile, of the tests of trees: more watches, memory and options of `rm` than a guest has.
#
# That takes three quarters of an hour. The gate takes a part of it: RINGWATCH_KERNEL_TESTS='kernel denied' ci/kernels.sh
set -euo pipefail
cd "$(dirname "$0")/.."
left_out='build_watcher|watch|instructions|faults'

# NAME KERNEL, and how the guest differs from the others. What is expected is the kernel's, but if it is given.
runs() {
    awk '!/^(#|$)/ { print $1, $1 }' ci/kernels/table.txt
    echo 'disabled 6.12 APPEND=sysctl.kernel.io_uring_disabled=2 EXPECT=epoll REASON=kernel.io_uring_disabled'
    echo '128MiB 6.18 MEM=128'
    echo 'one-cpu 6.12 SMP=1'
}

# What a line of the table says of a kernel: the backend and the features.
expected() {
    awk -v kernel="$1" '$1 == kernel { $1 = $2 = ""; sub(/^ */, ""); print }' ci/kernels/table.txt
}

check_readme() {
    local kernel rest features status=0
    while read -r kernel _ backend rest; do
        features=$(sed 's/\([A-Z_]\+\)/`\1`/g; s/ /, /g' <<< "$rest")
        grep -qxF "| $kernel | $backend |${features:+ $features} |" README.md && continue
        echo "README.md has no line of Linux $kernel: $backend, ${features:-no features}" >&2
        status=1
    done < <(grep -v -e '^#' -e '^$' ci/kernels/table.txt)
    return $status
}

install_tools() {
    local missing=() root
    command -v qemu-system-x86_64 > /dev/null || missing+=(qemu-system-x86)
    [[ $(ldd "$(command -v busybox)" 2>&1) == *'not a dynamic'* ]] || missing+=(busybox-static)
    command -v cpio > /dev/null || missing+=(cpio)
    command -v strip > /dev/null || missing+=(binutils)
    [ ${#missing[@]} -gt 0 ] || return 0
    root=$([ "$(id -u)" = 0 ] || echo sudo)
    $root apt-get -qq update
    $root apt-get -qq install -y --no-install-recommends "${missing[@]}"
}

# The test programs, as they are built for this machine. Optimized: they fit into less memory, and the gate has built what
# they depend on.
programs() {
    local built name which=(--lib --tests)
    if [ -n "${RINGWATCH_KERNEL_TESTS:-}" ]; then
        which=()
        for name in $RINGWATCH_KERNEL_TESTS; do
            if [[ $name =~ ^($left_out)$ ]]; then
                echo "ci/kernels.sh: $name is left out" >&2
                return 1
            fi
            if [ "$name" = ringwatch ]; then which+=(--lib); else which+=(--test "$name"); fi
        done
    fi
    # Cargo says what it does not know.
    built=$(cargo test --release --all-features "${which[@]}" --no-run 2>&1 | tee >(cat >&2) |
        sed -n 's/.*Executable .*(\(.*\))$/\1/p') || return
    grep -vE "/($left_out)-[0-9a-f]*\$" <<< "$built"
}

one_run() {
    local name=$1 kernel=$2 EXPECT REASON='Linux 6.1 or later'
    shift 2
    EXPECT=$(expected "$kernel")
    [ $# -eq 0 ] || local "$@"
    # Nothing is left untested for want of io_uring where it is expected.
    local required=0
    [ "$EXPECT" = epoll ] || required=1
    # It charges a ring to the memory that a process may lock; older and newer ones do not.
    [ "$kernel" != 6.18 ] || export RINGWATCH_REQUIRE_MEMLOCK=1
    export APPEND="${APPEND:-}" MEM="${MEM:-512}" SMP="${SMP:-2}"
    export RINGWATCH_EXPECT=$EXPECT RINGWATCH_EXPECT_REASON=$REASON RINGWATCH_REQUIRE_EXPECTED=1
    export RINGWATCH_REQUIRE_URING=$required RINGWATCH_REQUIRE_NAMESPACES=1 RINGWATCH_REQUIRE_CGROUP=1
    # An emulated machine is slow: less of the same, and as many replays of trees as go into some seconds.
    # Nobody else lives by the clock of a guest, or by its limits.
    export RINGWATCH_MAY_SET_CLOCK=1 RINGWATCH_REQUIRE_CLOCK=1
    export RINGWATCH_MAY_SET_LIMITS=1 RINGWATCH_REQUIRE_LIMITS=1
    export RINGWATCH_SHARE=5 RINGWATCH_SEEDS=100000 RINGWATCH_SECONDS=15 TIMEOUT=900
    local begun=$SECONDS status=0
    # All programs are in the guest's memory: where that is little, some of them at a time.
    local at_once=1000
    [ "$MEM" -ge 512 ] || at_once=4
    xargs -n "$at_once" ci/kernels/run.sh --job ci/kernels/job.sh "$kernel" <<< "$PROGRAMS" > "target/kernels/$name.log" 2>&1 || status=$?
    if [ $status = 0 ]; then
        echo "== $name: well, as $EXPECT, after $((SECONDS - begun)) s"
        sed -n '/SKIPPED/s/^ *[0-9]* /   /p' "target/kernels/$name.log" | sort -u
    else
        echo "== $name: FAILED with $status; target/kernels/$name.log is:"
        cat "target/kernels/$name.log"
    fi
    return $status
}

if [ "${1:-}" = --one ]; then
    shift
    one_run "$@"
    exit
fi

known=$(runs | cut -d' ' -f1)
for name in "$@"; do
    grep -qxF -e "$name" <<< "$known" && continue
    echo "ci/kernels.sh: no run is called $name; there are ${known//$'\n'/, }" >&2
    exit 1
done
check_readme
install_tools
mkdir -p target/kernels
# Fetched one after the other, before anything is built: if one can't be had, that is known at once.
for kernel in $(awk '!/^(#|$)/ { print $1 }' ci/kernels/table.txt); do
    image=$(ci/kernels/get.sh "$kernel")
    echo "Linux $kernel is $image"
done
PROGRAMS=$(programs)
export PROGRAMS
wanted=" $* "
runs | while read -r name rest; do
    [ "$wanted" = '  ' ] || [[ $wanted = *" $name "* ]] || continue
    echo "--one $name $rest"
done | tr '\n' '\0' | xargs -0 -P 2 -I{} bash -c 'exec ci/kernels.sh $1' - {}
