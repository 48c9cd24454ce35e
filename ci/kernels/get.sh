#!/usr/bin/env bash
# Print the path of a Debian kernel of this machine's architecture (x86-64), fetching it if it is not there yet.
#
#   get.sh KERNEL        KERNEL is the first word of a line of table.txt: 6.12, say, or newest
#
# Nothing is installed, and apt's own configuration is only read: for where the archive is, whose signatures are checked.
# Kernels are kept in $RINGWATCH_KERNELS, or else in the user's cache. After a week a newer one is asked for; if that fails,
# the one that is there serves, and that is said. The newest is not known before all its suites were asked.
# Needs apt and dpkg, and so Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:?which kernel}
suites=$(awk -v kernel="$kernel" '$1 == kernel { print $2 }' "$here/table.txt")
[ -n "$suites" ] || { echo "get.sh: $kernel is not in table.txt" >&2; exit 1; }
cache=${RINGWATCH_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/ringwatch/kernels}
mkdir -p "$cache"
# Two that want the same wait for each other.
exec 9> "$cache/$kernel.lock"
flock 9

# What was fetched last: a file that holds the name of the image.
last=$cache/$kernel.last
image() { [ -f "$last" ] && [ -f "$cache/$(cat "$last")" ]; }
if image && [ -n "$(find "$last" -mtime -7)" ]; then
    echo "$cache/$(cat "$last")"
    exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# Where the archive is: the first address that apt has for a suite of that kind.
archive() {
    local security=-v
    [[ $1 != *-security ]] || security=-e
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' |
        if [ $security = -e ]; then grep -e '-security$'; else grep -v -e '-security$'; fi | head -n 1 | cut -d' ' -f1
}

# apt with this suite and no other, on files of its own.
apt() {
    local tool=$1 suite=$2
    shift 2
    local at=$work/$suite
    "$tool" -o Dir::Etc::sourcelist="$at/list" -o Dir::Etc::sourceparts="$at/parts" -o Dir::State::Lists="$at/lists" \
        -o Dir::State::status=/dev/null -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Acquire::Languages=none -o APT::Sandbox::User= "$@"
}

# The newest signed kernel of a suite for cloud machines, which has all it needs built in: "VERSION PACKAGE". From 6.19 on
# the image is in linux-binary-*; before, in linux-image-*.
newest_in() {
    local suite=$1 version=$2 uri
    mkdir -p "$work/$suite"/{lists/partial,parts}
    uri=$(archive "$suite")
    [ -n "$uri" ] || { echo "get.sh: apt knows no archive of Debian for $suite; is this Debian?" >&2; return 1; }
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" > "$work/$suite/list"
    # Also an archive that can't be reached for the moment is an error: without this, apt only warns of that.
    apt apt-get "$suite" -qq -o APT::Update::Error-Mode=any update >&2 || return 1
    apt apt-cache "$suite" search --names-only "^linux-(image|binary)-$version[0-9.+a-z-]*cloud-amd64\$" | cut -d' ' -f1 |
        sed -n 's/^linux-\(image\|binary\)-\([0-9].*\)-cloud-amd64$/\2 \1/p' | sort -k1,1V -k2,2r | tail -n 1 |
        sed "s/\(.*\) \(.*\)/\1 linux-\2-\1-cloud-amd64 $suite/"
}

fetch() {
    local version found='' of_suite name suite
    case $kernel in
        newest) version='[0-9]' ;;
        *) version=${kernel//./\\.}\\. ;;
    esac
    for suite in ${suites//,/ }; do
        if ! of_suite=$(newest_in "$suite" "$version"); then
            echo "get.sh: $suite could not be asked for Linux $kernel" >&2
            [ "$kernel" != newest ] || return 1
        fi
        found+=$of_suite$'\n'
        # Of the newest, all are asked; otherwise the first that has one will do.
        [ "$kernel" = newest ] || [ -z "${found//$'\n'/}" ] || break
    done
    read -r _ name suite < <(sort -V <<< "$found" | tail -n 1) || true
    [ -n "${name:-}" ] || return 1
    cd "$work"
    apt apt-get "$suite" -qq download "$name" >&2 || return 1
    dpkg -x ./*.deb x
    cp "$(find x -type f -name 'vmlinuz*')" "$cache/new.$$"
    mv "$cache/new.$$" "$cache/vmlinuz-${name#linux-*-}"
    echo "vmlinuz-${name#linux-*-}" > "$last"
}

if ! (fetch); then
    image || { echo "get.sh: no kernel $kernel can be had from $suites" >&2; exit 1; }
    echo "get.sh: $kernel could not be asked for again; the one of $(date -r "$last" +%F) serves" >&2
fi
echo "$cache/$(cat "$last")"
