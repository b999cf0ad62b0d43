#!/usr/bin/env bash
# Counts where a proxy spends its time, for the compiler: builds one that counts its branches, sends it the bench's traffic
# and that of other clients through a route, and writes proxy/heddle-proxy.profdata, which .cargo/rustc hands to every
# optimized build. Takes 3 minutes once both are built, which takes 15. Needs root.
# Usage: tests/bench/profile.sh [check]
#   check: only says whether what there is was counted with these dependencies, settings and compiler
set -euo pipefail
cd "$(dirname "$0")/../.."
# Others would stand before the compiler instead of .cargo/rustc, or replace what it says.
unset RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR

readonly WORLD=profile SECONDS_EACH=5
# How often an accepted handshake counts. It costs as much as ten requests, and would pass for rare beside them.
readonly HANDSHAKES_COUNT=15
readonly BIN=target/counting/bin PROFILE=proxy/heddle-proxy.profdata STAMP=proxy/heddle-proxy.profdata.of
# The Service of tests/bench/src/subject.rs.
readonly TO=10.96.0.14:8080
# As browsers and services send them.
readonly HEADERS=(
    -H 'user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
    -H 'accept: text/html,application/json;q=0.9,*/*;q=0.8' -H 'accept-encoding: gzip, br'
    -H 'cookie: session=5f2b8c1d9e; theme=dark' -H 'x-request-id: 7d0a2c3e-54c1-4a8e-9b1f-0e6d2f1a7c55'
    -H 'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' -H 'x-internal: 1'
)

main() {
    case ${1:-} in
        check) check ;;
        '') count ;;
        *) fail "usage: tests/bench/profile.sh [check]" ;;
    esac
}

# The names of functions come from all of these: with another version of one crate, those that use it have other names, and
# are compiled as without a profile.
inputs() { cat rust-toolchain.toml Cargo.lock Cargo.toml ./*/Cargo.toml tests/*/Cargo.toml | sha256sum | cut -d ' ' -f 1; }

check() {
    [ "$(cat "$STAMP" 2>/dev/null)" = "$(inputs)" ] ||
        say "warning: $PROFILE was counted with other dependencies, settings or compiler, and helps less: make profile"
}

count() {
    [ "$(id -u)" = 0 ] || fail "network namespaces need root; run this as root"
    work=$(mktemp -d)
    trap 'lab down >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
    rustup component add llvm-tools
    local sysroot host profdata
    sysroot=$(rustc --print sysroot)
    host=$(rustc -vV | sed -n 's/^host: //p')
    profdata=$sysroot/lib/rustlib/$host/bin/llvm-profdata
    [ -x "$profdata" ] || fail "$profdata is missing"

    say "building what counts"
    cargo build --release --locked
    # Programs that run while it is built count, too.
    LLVM_PROFILE_FILE=$work/build/%p.profraw cargo build --release --locked --target-dir target/counting --bin heddle-proxy
    grep -aq 'LLVM Profile Error' target/counting/release/heddle-proxy || fail "it does not count: is there another .cargo/config.toml?"
    lab down
    mkdir -p "$BIN"
    cp target/release/{lab,load,heddle-init,heddle-injector} target/counting/release/heddle-proxy "$BIN/"

    bench http1,http2,open,bulk1,bulk8,short,handshake
    say "other clients, and a route"
    head -c 2000 /dev/urandom >"$work/body"
    through_h2load
    lab apply tests/bench/profile/route.yaml
    through_h2load
    collect all
    bench handshake
    collect handshakes
    "$profdata" merge --sparse --output "$work/merged" "$work"/all/*.profraw \
        --weighted-input="$HANDSHAKES_COUNT,$work/handshakes/server.profraw"
    mv "$work/merged" "$PROFILE"
    inputs >"$STAMP"
    say "$PROFILE: $(wc -c <"$PROFILE") bytes"
}

# Begins the world anew, and leaves it up.
bench() {
    target/release/bench --bin "$BIN" --world "$WORLD" --keep --subjects heddle --rounds 1 --seconds "$SECONDS_EACH" --only "$1"
}

through_h2load() {
    h2load_for --h1 --clients 32 "http://$TO/?size=300"
    h2load_for --h1 --clients 32 --data "$work/body" "http://$TO/orders?size=100"
    h2load_for --clients 4 --max-concurrent-streams 16 "http://$TO/items/7?size=6000"
    h2load_for --clients 4 --max-concurrent-streams 16 --data "$work/body" "http://$TO/orders?size=100"
}

h2load_for() {
    local said
    said=$(lab exec heddle/client -- h2load --duration "$SECONDS_EACH" "${HEADERS[@]}" "$@" | grep '^status codes')
    say "$said"
    [[ $said =~ ^'status codes: '[1-9][0-9]*' 2xx, 0 3xx, 0 4xx, 0 5xx'$ ]] || fail "not every answer is a good one"
}

# Ends both proxies, and takes their counts.
collect() {
    local pod pid
    mkdir "$work/$1"
    for pod in client server; do
        pid=$(lab ps --json | jq ".pods[] | select(.name == \"$pod\").containers[] | select(.name == \"heddle-proxy\").pid")
        [ -n "$pid" ] || fail "the proxy of pod $pod does not run"
        take "$pid" "$work/$1/$pod.profraw"
    done
}

# A proxy writes its counts when it ends, into a file system that ends with its pod, unless somebody is in there.
take() (
    cd "/proc/$1/root"
    cd dev/shm
    kill -TERM "$1"
    for _ in $(seq 100); do
        if ! kill -0 "$1" 2>/dev/null; then
            cp ./*.profraw "$2"
            return
        fi
        sleep 0.1
    done
    fail "the proxy of pid $1 does not end"
)

lab() { local verb=$1; shift; target/release/lab "$verb" --world "$WORLD" "$@"; }

say() { echo "profile: $*"; }
fail() { echo "profile: error: $*" >&2; exit 1; }

main "$@"
