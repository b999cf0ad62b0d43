#!/usr/bin/env bash
# Brings a fresh Debian machine to where the demo, the tests, the cluster or the bench can run. Doing it again
# changes nothing. Usage: tests/setup.sh demo|test|cluster|bench
set -euo pipefail
cd "$(dirname "$0")/.."

POLICY=/usr/sbin/policy-rc.d

say() { echo "setup: $*"; }
fail() { echo "setup: error: $*" >&2; exit 1; }

# One a line: the package, and a program of it whose presence means that nothing is missing.
packages_of() {
    cat <<-END
		build-essential cc
		ca-certificates update-ca-certificates
		git git
		iptables iptables-nft-restore
		iproute2 ip
		tcpdump tcpdump
		curl curl
		procps ps
		util-linux nsenter
		util-linux setpriv
	END
    "packages_of_$1"
}

packages_of_demo() {
    cat <<-END
		postgresql /usr/lib/postgresql/*/bin/postgres
		postgresql-contrib /usr/lib/postgresql/*/bin/pgbench
		mariadb-server mariadbd
		mosquitto mosquitto
		mosquitto-clients mosquitto_sub
		python3-grpcio /usr/lib/python3/dist-packages/grpc/__init__.py
	END
}

packages_of_test() {
    packages_of_demo
    cat <<-END
		redis-server redis-server
		nginx nginx
		wrk wrk
		nghttp2-client nghttp
		nghttp2-server nghttpd
		python3 python3
		jq jq
	END
}

# What a Kubernetes needs that is not built from its source.
packages_of_cluster() {
    cat <<-END
		openssl openssl
		etcd-server etcd
		runc runc
		containernetworking-plugins /usr/lib/cni/bridge
		conntrack conntrack
		socat socat
		buildah buildah
		prometheus prometheus
	END
}

# What the bench looks with, and what gets Envoy.
packages_of_bench() {
    cat <<-END
		python3 python3
		python3-pip pip3
		strace strace
	END
}

present() {
    case $1 in
        /*) compgen -G "$1" >/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    packages_of "$1" | while read -r package program; do
        present "$program" || echo "$package"
    done | sort -u
}

# Debian starts the services that it installs, unless a policy says 101, "not now". The tests
# start their own. Services that ran before go on running.
hold_services_back() {
    if [ -x "$POLICY" ]; then
        "$POLICY" any start && rc=0 || rc=$?
        [ "$rc" != 101 ] || return 0
        mv "$POLICY" "$POLICY.before-heddle"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
    trap restore_policy EXIT
}

restore_policy() {
    rm -f "$POLICY"
    [ ! -e "$POLICY.before-heddle" ] || mv "$POLICY.before-heddle" "$POLICY"
}

install_packages() {
    [ "$(id -u)" = 0 ] || fail "these packages are missing and only root can install them: $*"
    command -v apt-get >/dev/null || fail "this is not Debian; install by other means: $*"
    hold_services_back
    say "updating the package lists"
    quietly apt-get update
    say "installing $*"
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
    rm -f "$log"
}

check_toolchain() {
    command -v cargo >/dev/null || fail "cargo is missing; install Rust with rustup, then try again"
    say "checking the Rust toolchain of rust-toolchain.toml"
    cargo --version >/dev/null || fail "cargo does not run; 'rustup show' in this folder says why"
    if [ "$1" = test ]; then
        cargo fmt --version >/dev/null || fail "rustfmt is missing; rustup component add rustfmt"
        cargo clippy --version >/dev/null || fail "clippy is missing; rustup component add clippy"
    fi
    case $1 in test | cluster) check_go ;; esac
}

# Debian's own Go may be older than what the programs that tests are built with ask for.
check_go() {
    local wanted
    wanted=$(awk '$1 == "go" { print $2 }' tests/tools/go.mod tests/cluster/*/go.mod | sort -V | tail -n 1)
    PATH="$PATH:/usr/local/go/bin" command -v go >/dev/null ||
        fail "go is missing; install Go $wanted or newer as go.dev/doc/install says"
}

check_namespaces() {
    [ "$(id -u)" = 0 ] || fail "network namespaces need root; run this as root"
    unshare --net --mount true || fail "this machine does not let root make network namespaces (a container needs --privileged)"
}

group=${1:-}
case $group in
    demo | test | cluster | bench) ;;
    *) fail "usage: tests/setup.sh demo|test|cluster|bench" ;;
esac

# shellcheck disable=SC2046 # names of packages hold no spaces
set -- $(missing_packages "$group")
if [ $# -gt 0 ]; then
    install_packages "$@"
fi
still=$(missing_packages "$group")
[ -z "$still" ] || fail "still missing after the installation: $still"
check_toolchain "$group"
check_namespaces
say "ready for: $group"
