#!/usr/bin/env bash
# Builds the conformance programs that the end-to-end tests run, at the versions of go.mod, and prints the directory
# that holds them: h2spec, and gRPC's interop client and server. They are kept outside of the clone, by what they are
# made from, so that only the first run takes its minute. Usage: tests/tools/build.sh
set -euo pipefail
cd "$(dirname "$0")"

# Name of the program, and the package that it is made from.
PROGRAMS=(
    "h2spec github.com/summerwind/h2spec/cmd/h2spec"
    "grpc-client google.golang.org/grpc/interop/client"
    "grpc-server google.golang.org/grpc/interop/server"
)

main() {
    # Go keeps its caches at home, and wants to know where that is.
    export HOME=${HOME:-~}
    PATH=$PATH:/usr/local/go/bin
    local key cache
    key=$( (uname -m; cat go.mod go.sum build.sh) | sha256sum | cut -c 1-16)
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/heddle/tools
    mkdir -p "$cache"
    (
        # One at a time: another run of the tests may want the same.
        flock 9
        [ -d "$cache/$key" ] || build "$cache/$key"
    ) 9>"$cache/lock"
    echo "$cache/$key"
}

# In a directory that gets its name when all of it is there.
build() {
    local program name package
    command -v go >/dev/null ||
        fail "go is missing; install Go $(awk '$1 == "go" { print $2 }' go.mod) or newer as go.dev/doc/install says (Debian's may be older)"
    new=$(mktemp -d "$1.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    for program in "${PROGRAMS[@]}"; do
        read -r name package <<<"$program"
        CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$new/$name" "$package" >&2 || fail "cannot build $package"
    done
    chmod 755 "$new"
    mv "$new" "$1"
}

fail() { echo "tools: error: $*" >&2; exit 1; }

main
