#!/usr/bin/env bash
# Builds the three images, without a registry and without Docker, as archives that `ctr images import`, `podman load`
# and `kind load image-archive` read. The same programs give the same images.
# Usage: images/build.sh [--binaries DIR] [--tag TAG] [--out DIR] [--push REGISTRY]
#   --binaries: where heddle-proxy, heddle-init and heddle-injector are; without it they are built, as for a release
#   --tag: the version of the workspace, if none is given
#   --out: target/images, if none is given
#   --push: a registry with its path, such as registry.example.com/mesh; log in first, with `buildah login`
set -euo pipefail
cd "$(dirname "$0")/.."

PROGRAMS=(proxy init injector)
TARGET=${CARGO_TARGET_DIR:-target}

main() {
    local binaries='' tag='' out=$TARGET/images registry=''
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
            --binaries) binaries=$2 ;;
            --tag) tag=$2 ;;
            --out) out=$2 ;;
            --push) registry=${2%/} ;;
            *) fail "unknown option $1" ;;
        esac
        shift 2
    done
    command -v buildah >/dev/null || fail "buildah is missing; on Debian: apt-get install --no-install-recommends buildah"
    [ -n "$tag" ] || tag=$(awk -F '"' '/^version = / { print $2; exit }' Cargo.toml)
    if [ -z "$binaries" ]; then
        tests/bench/profile.sh check
        # What else may stand before the compiler would do without the profile.
        unset RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER
        cargo build --locked --release --bin heddle-proxy --bin heddle-init --bin heddle-injector
        binaries=$TARGET/release
    fi
    mkdir -p "$out"
    # Nothing of this stays in the machine's own store of images.
    work=$(mktemp -d)
    trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
    local program
    for program in "${PROGRAMS[@]}"; do
        image "$program" "$binaries/heddle-$program" "$tag" "$out/heddle-$program.tar" "$registry"
    done
}

image() {
    local program=$1 binary=$2 tag=$3 archive=$4 registry=$5 name=heddle-$1 root=$work/$1
    [ -x "$binary" ] || fail "$binary is missing"
    images/rootfs.sh "$name" "$binary" "$root"
    store bud --quiet --isolation chroot --timestamp 0 --target prebuilt \
        --file "images/$program.Dockerfile" --tag "$name:$tag" "$root" >/dev/null
    # In the name's full form, which is how a node looks it up.
    rm -f "$archive.new"
    store push --quiet "$name:$tag" "oci-archive:$archive.new:${registry:-docker.io/library}/$name:$tag"
    mv "$archive.new" "$archive"
    echo "$archive: ${registry:+$registry/}$name:$tag, $(du --apparent-size -k "$archive" | cut -f 1) KiB"
    if [ -n "$registry" ]; then
        store push --quiet "$name:$tag" "docker://$registry/$name:$tag"
    fi
}

store() {
    local command=$1
    shift
    buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

fail() { echo "images: error: $*" >&2; exit 1; }

main "$@"
