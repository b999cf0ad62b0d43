#!/usr/bin/env bash
# Builds programs of others that the tests run, at the versions of a Go module here, and prints the directory that holds
# them. They are kept outside of the clone, by what they are made from, so that only the first run takes its minutes.
# Usage: tests/tools/build.sh [wire|helm]
#   wire (the default): h2spec, and gRPC's interop client and server
#   helm: helm, which renders and installs the chart
set -euo pipefail
cd "$(dirname "$0")"

main() {
    # Go keeps its caches at home, and wants to know where that is.
    export HOME=${HOME:-~}
    PATH=$PATH:/usr/local/go/bin
    local group=$1 module key cache
    module=$(module_of "$group")
    key=$( (uname -m; cat "$module/go.mod" "$module/go.sum" build.sh) | sha256sum | cut -c 1-16)
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/heddle/tools
    mkdir -p "$cache"
    (
        # One at a time: another run of the tests may want the same.
        flock 9
        [ -d "$cache/$key" ] || build "$group" "$module" "$cache/$key"
    ) 9>"$cache/lock.$group"
    echo "$cache/$key"
}

# Helm needs half of Kubernetes, so it has a module of its own.
module_of() {
    case $1 in
        wire) echo . ;;
        helm) echo helm ;;
        *) fail "no group $1; there are: wire, helm" ;;
    esac
}

# Name of the program, and the package that it is made from.
programs_of() {
    case $1 in
        wire) cat <<-END ;;
			h2spec github.com/summerwind/h2spec/cmd/h2spec
			grpc-client google.golang.org/grpc/interop/client
			grpc-server google.golang.org/grpc/interop/server
		END
        helm) echo "helm helm.sh/helm/v4/cmd/helm" ;;
    esac
}

# In a directory that gets its name when all of it is there.
build() {
    local group=$1 module=$2 name package
    command -v go >/dev/null ||
        fail "go is missing; install Go $(awk '$1 == "go" { print $2 }' go.mod) or newer as go.dev/doc/install says (Debian's may be older)"
    new=$(mktemp -d "$3.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    while read -r name package; do
        CGO_ENABLED=0 go build -C "$module" -trimpath -buildvcs=false -ldflags "-s -w" -o "$new/$name" "$package" >&2 ||
            fail "cannot build $package"
    done < <(programs_of "$group")
    chmod 755 "$new"
    mv "$new" "$3"
}

fail() { echo "tools: error: $*" >&2; exit 1; }

main "${1:-wire}"
