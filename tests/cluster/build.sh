#!/usr/bin/env bash
# Builds what the cluster is made of, at the versions of the go.mod files, and prints the directory of each part, one a
# line. Parts are kept outside of the clone, by what they are made from, so that only the first run takes its twenty
# minutes. Usage: tests/cluster/build.sh PART...
set -euo pipefail
cd "$(dirname "$0")"

PARTS=(kube containerd pause coredns echo crds conformance)

main() {
    local part
    [ $# -gt 0 ] || fail "usage: tests/cluster/build.sh PART... (there are: ${PARTS[*]})"
    # Go keeps its caches at home, and wants to know where that is.
    export HOME=${HOME:-~} PATH=$PATH:/usr/local/go/bin:/usr/sbin CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/heddle/cluster
    mkdir -p "$cache"
    for part in "$@"; do
        declare -F "build_$part" >/dev/null || fail "no part $part; there are: ${PARTS[*]}"
        build "$part"
    done
}

build() {
    local made
    made=$cache/$1-$(key "$1")
    [ -d "$made" ] || (
        # One at a time: another run may want the same, and two would only be slower together.
        flock 9
        [ -d "$made" ] || make_in "$made" "$1"
    ) 9>"$cache/lock"
    echo "$made"
}

# What a part is made from: its own function and those all of them use, and its sources.
key() {
    local sources
    mapfile -t sources < <(sources_of "$1")
    (uname -m; declare -f "build_$1" program image go_build; cat "${sources[@]}") | sha256sum | cut -c 1-16
}

sources_of() {
    case $1 in
        crds) echo conformance/go.sum ;;
        *) find "$1" -type f | LC_ALL=C sort ;;
    esac
}

# In a directory that gets its name when all of it is there.
make_in() {
    local start=$SECONDS log
    say "building $2 ($(first_time "$2"))"
    new=$(mktemp -d "$1.XXXXXX")
    log=$cache/$2.log
    trap 'rm -rf "$new"' EXIT
    "build_$2" "$new" >"$log" 2>&1 || fail "cannot build $2: $(tail -n 5 "$log"); all of it is in $log"
    chmod 755 "$new"
    mv "$new" "$1"
    say "$2 is built after $((SECONDS - start)) s"
}

# On two cores, nothing cached.
first_time() {
    case $1 in
        kube) echo "8 to 15 minutes the first time" ;;
        coredns | conformance) echo "about 3 minutes the first time" ;;
        *) echo "about a minute the first time" ;;
    esac
}

build_kube() {
    local version part flags name
    version=$(cd kube && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    part=k8s.io/component-base/version
    # Programs ask each other for their versions, and a node without one is refused.
    flags="-s -w -X $part.gitVersion=$version -X $part.gitMajor=1 -X $part.gitMinor=$(cut -d. -f2 <<<"$version")"
    (cd kube && go_build -ldflags "$flags" -o "$1/kube" .)
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
        ln -s kube "$1/$name"
    done
}

build_containerd() {
    local name
    for name in containerd containerd-shim-runc-v2 ctr; do
        program containerd "$1/$name" "github.com/containerd/containerd/v2/cmd/$name"
    done
}

# It holds a pod's namespaces, and does nothing.
build_pause() {
    gcc -static -Os -s -o "$1/pause" pause/pause.c
    image pause "$1" registry.k8s.io/pause:3.10
}

build_coredns() {
    program coredns "$1/coredns" github.com/coredns/coredns
    image coredns "$1" registry.k8s.io/coredns/coredns:v1.14.7
}

build_echo() {
    program echo "$1/server" istio.io/istio/pkg/test/echo/cmd/server
    program echo "$1/client" istio.io/istio/pkg/test/echo/cmd/client
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=echo \
        -addext subjectAltName=DNS:echo -keyout "$1/cert.key" -out "$1/cert.crt"
    # The server in it is not root.
    chmod 644 "$1/cert.key"
    image echo "$1" registry.k8s.io/gateway-api/echo-advanced:v1.5.1
}

build_crds() {
    local from
    (cd conformance && go mod download sigs.k8s.io/gateway-api)
    from=$(cd conformance && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
    cp -r --no-preserve=mode "$from/config/crd/standard" "$from/config/crd/experimental" "$1"
    rm "$1"/*/kustomization.yaml
}

build_conformance() {
    (cd conformance && nice -n 19 go test -c -o "$1/conformance.test" .)
}

# A program of a module that is not ours: module, file to write, package.
program() {
    (cd "$1" && go_build -ldflags '-s -w' -o "$2" "$3")
}

# Whoever works at this machine meanwhile goes first.
go_build() {
    nice -n 19 go build "$@"
}

# An image from a part's Containerfile and programs, in a file that containerd can read. No registry, nothing left
# in buildah's own store.
image() {
    local store
    store=$(mktemp -d)
    buildah --storage-driver vfs --root "$store/root" --runroot "$store/run" \
        bud --isolation chroot --cni-config-dir "$store/cni" --file "$1/Containerfile" --tag "$3" "$2"
    buildah --storage-driver vfs --root "$store/root" --runroot "$store/run" push "$3" "oci-archive:$2/image.tar:$3"
    rm -rf "$store"
}

say() { echo "cluster: $*" >&2; }
fail() { echo "cluster: error: $*" >&2; exit 1; }

main "$@"
