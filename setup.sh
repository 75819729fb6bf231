#!/bin/sh
# Installs what tcptrace needs and is not there yet, then runs it or its tests.
# What it says goes to stderr: stdout belongs to the program that it runs.
set -eu

# The distribution's packages, for each package manager: `run` to trace, `test`
# for the kernel tests and the virtual machines besides, `fleet` for those of `tcptrace map`.
packages() {
    case $1-$2 in
    apt-get-run) echo python3-bpfcc python3-venv ;;
    apt-get-test)
        echo binutils bpfcc-tools bpftool bpftrace busybox-static debootstrap dnsmasq-base file iproute2 \
            kmod libbpf-tools musl-tools nftables qemu-system-x86
        ;;
    apt-get-arm64) echo qemu-system-arm ;;
    apt-get-fleet) echo chromium haproxy openjdk-17-jre-headless redis-server ;;
    dnf-run) echo python3-bcc ;;
    dnf-fleet) echo chromium-headless haproxy java-17-openjdk-headless redis ;;
    dnf-test) echo binutils bpftool busybox dnsmasq file iproute iproute-tc kmod musl-gcc nftables qemu-system-x86-core ;;
    pacman-run) echo python-bcc ;;
    pacman-fleet) echo chromium haproxy jre17-openjdk-headless valkey ;;
    pacman-test) echo binutils bpf busybox dnsmasq file iproute2 kmod musl nftables qemu-system-x86 ;;
    zypper-run) echo python3-bcc ;;
    zypper-fleet) echo chromium haproxy java-17-openjdk-headless redis ;;
    zypper-test) echo binutils bpftool busybox-static dnsmasq file iproute2 kmod musl-devel nftables qemu-x86 ;;
    apk-run) echo py3-bcc ;;
    apk-fleet) echo chromium haproxy openjdk17-jre-headless redis ;;
    apk-test) echo binutils bpftool busybox-static dnsmasq file gcc iproute2 kmod musl-dev nftables qemu-system-x86_64 ;;
    esac
}

# Commands of the `test` packages: one that is missing is why they are installed.
TEST_COMMANDS="as bpftool busybox dnsmasq file ip modprobe musl-gcc nft qemu-system-x86_64"
# Those that are wanted besides where apt has them: other tracers, and what makes roots for machines.
TEST_COMMANDS_OF_APT="bpftrace debootstrap tcpconnect tcpconnect-bpfcc"

# Commands of the `fleet` packages.
FLEET_COMMANDS="chromium haproxy java redis-server"

usage() {
    cat <<'END'
Usage: sudo ./setup.sh run [ARGUMENTS]   install what is missing, run tcptrace
       sudo ./setup.sh test [ARGUMENTS]  install the tools for tests too, run nox
       sudo ./setup.sh fleet             install a browser, servers and Spark too, test the map

For example: sudo ./setup.sh run accept -t
END
}

say() {
    printf 'setup.sh: %s\n' "$@" >&2
}

die() {
    say "$@"
    exit 1
}

# --- is everything there? No Python, no network: this is on the way of every run.

# The interpreter and the place that .venv was made for.
origin() {
    echo "$(readlink -f .venv/bin/python3) $PWD"
}

# What the installation in .venv depends on.
fingerprint() {
    cat pyproject.toml setup.sh bin/tcptrace | cksum
    origin
}

has_test_commands() {
    wanted=$TEST_COMMANDS
    [ "$(package_manager)" != apt-get ] || wanted="$wanted $TEST_COMMANDS_OF_APT"
    # shellcheck disable=SC2086 # a list of words
    has_all $wanted
}

has_all() {
    for command in "$@"; do
        command -v "$command" >/dev/null || return 1
    done
}

# .venv/.run and .venv/.test hold the fingerprint of what is installed there;
# .venv/.bcc links to the distribution's bcc, which may be removed meanwhile.
is_ready() {
    [ -x .venv/bin/python3 ] && [ -e .venv/.bcc ] && [ -e ".venv/.$1" ] || return 1
    [ "$(cat ".venv/.$1")" = "$(fingerprint)" ] || return 1
    [ "$1" = run ] || has_test_commands || return 1
    # shellcheck disable=SC2086 # a list of words
    [ "$1" != fleet ] || has_all $FLEET_COMMANDS
}

# --- the distribution's packages

package_manager() {
    for manager in apt-get dnf pacman zypper apk; do
        if command -v "$manager" >/dev/null; then
            echo "$manager"
            return
        fi
    done
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # apt waits for dpkg's lock, but not for that of its package lists.
    for _ in 1 2 3 4 5 6; do
        quietly apt-get -qq update && break
        sleep 5
    done
    quietly apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=600 install "$@"
}

# Runs a command; what it says is shown if it fails.
quietly() {
    words=$(mktemp)
    "$@" >"$words" 2>&1 && failed=0 || failed=$?
    [ "$failed" = 0 ] || cat "$words"
    rm -f "$words"
    return "$failed"
}

install_packages() {
    manager=$(package_manager)
    [ -n "$manager" ] || die "no package manager known here (apt, dnf, pacman, zypper, apk)" \
        "install these, as your distribution names them: $(packages apt-get "$1")"
    # shellcheck disable=SC2046 # a list of words
    set -- $(packages "$manager" "$1")
    [ "$(id -u)" = 0 ] || die "only root can install $*" "run this again with sudo"
    say "installing $*"
    case $manager in
    apt-get) apt_install "$@" ;;
    dnf) dnf -q -y install "$@" ;;
    pacman) pacman -Sq --needed --noconfirm "$@" ;;
    zypper) zypper -q --non-interactive install "$@" ;;
    apk) apk add -q "$@" ;;
    esac || die "$manager could not install $*" "its own words are above"
}

# --- Python

# The distribution's bcc has a libbcc; PyPI's package of that name has not.
# -I: neither the working directory nor a user's packages count.
has_bcc() {
    [ -x "$1" ] && "$1" -I -c '
import ensurepip, sys, venv
import bcc.libbcc
sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# The distribution's interpreter first: only that one sees its packages.
find_python() {
    for python in /usr/bin/python3 /usr/bin/python3.[0-9][0-9] "$(command -v python3)"; do
        if has_bcc "$python"; then
            echo "$python"
            return
        fi
    done
    return 1
}

make_venv() {
    [ -e .venv/.bcc ] && [ -e .venv/.origin ] && [ "$(cat .venv/.origin)" = "$(origin)" ] && return
    "$1" -m venv --clear --system-site-packages .venv ||
        die "$1 could not make a virtual environment in $PWD/.venv"
    .venv/bin/python3 -I -c 'import os, bcc.libbcc; os.symlink(bcc.libbcc.__file__, ".venv/.bcc")'
    origin >.venv/.origin
}

install_project() {
    case $1 in
    run) project='.[top]' ;;
    test) project='.[dev,vm]' ;;
    fleet) project='.[dev,vm,map,spark]' ;;
    esac
    say "installing tcptrace into $PWD/.venv"
    .venv/bin/python3 -m pip install --quiet --disable-pip-version-check --editable "$project" ||
        die "pip could not install tcptrace" "its own words are above; does it reach a package index?"
}

# --- all together

install_missing() {
    [ ! -d .venv ] || [ -w .venv ] || die "$PWD/.venv belongs to another user" "run this again with sudo"
    find_python >/dev/null || install_packages run
    python=$(find_python) || die "no Python 3.10 or newer here imports the distribution's bcc" \
        "install the package with bcc's Python bindings (not PyPI's bcc) for such a Python"
    [ "$1" = run ] || has_test_commands || install_packages test
    # shellcheck disable=SC2086 # a list of words
    [ "$1" != fleet ] || has_all $FLEET_COMMANDS || install_packages fleet
    make_venv "$python"
    install_project "$1"
    fingerprint >.venv/.run
    [ "$1" = run ] || fingerprint >.venv/.test
    [ "$1" != fleet ] || fingerprint >.venv/.fleet
    give_back
}

# What root makes in a user's work tree is the user's all the same.
give_back() {
    [ "$(id -u)" != 0 ] || [ "$(stat -c %u "$root")" = 0 ] ||
        find "$root" -xdev -user root -exec chown -h --reference="$root" {} +
}

# In a subshell: the caller's working directory stays. One at a time: the lock
# is on this file, and the second finds everything done.
ensure() (
    cd "$root"
    is_ready "$1" && return
    flock 9
    is_ready "$1" || install_missing "$1"
) 9<"$root/setup.sh" >&2

root=$(dirname "$(readlink -f "$0")")
action=${1:---help}
[ $# = 0 ] || shift

case $action in
run)
    ensure run
    exec "$root/.venv/bin/tcptrace" "$@"
    ;;
test)
    PATH=$PATH:/usr/sbin:/sbin
    ensure test
    # Another machine's emulator is for one session alone: test -s vm -- arm64
    case "$(package_manager) $* " in apt-get*' arm64 '*)
        command -v qemu-system-aarch64 >/dev/null || install_packages arm64 >&2
        ;;
    esac
    cd "$root"
    trap give_back EXIT
    trap 'exit 130' INT TERM
    .venv/bin/nox "$@"
    ;;
fleet)
    PATH=$PATH:/usr/sbin:/sbin
    ensure fleet
    cd "$root"
    trap give_back EXIT
    trap 'exit 130' INT TERM
    .venv/bin/nox -s fleet -- "$@"
    ;;
-h | --help)
    usage
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
