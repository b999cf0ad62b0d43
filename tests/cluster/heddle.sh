#!/usr/bin/env bash
# Installs Heddle as it is in this clone in the cluster that make cluster brought up, with the image that the tests'
# workloads run; again after a change, it upgrades. In the cluster of another KUBECONFIG, HEDDLE_REGISTRY names the registry
# that the images are pushed to and pulled from. Usage: tests/cluster/heddle.sh [OPTION OF HELM...]
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh

ROOT=$(cd ../.. && pwd)
IMAGES=$ROOT/target/images
RELEASE=${CARGO_TARGET_DIR:-$ROOT/target}/release
WORKLOAD=heddle-echo

main() {
    export KUBECONFIG=${KUBECONFIG:-$ADMIN} PATH=$STATE/bin:$PATH:/usr/sbin
    type -P helm >/dev/null || fail "helm is missing; make cluster builds one"
    # Whatever was built is what runs: the tag is what it was built from.
    tag=$(cat "$RELEASE"/heddle-{proxy,init,injector} "$RELEASE/echo" ./*.sh workload/* | sha256sum | cut -c 1-12)
    mkdir -p "$IMAGES"
    if [ "$KUBECONFIG" = "$ADMIN" ]; then
        [ "$(cat "$STATE/heddle" 2>/dev/null)" = "$tag" ] || load
    else
        push
    fi
    define_routes
    install_heddle "$@"
}

# A user's first command. They are that user's, so neither the chart nor a test changes those that are there.
define_routes() {
    local kubectl
    kubectl=$(find_kubectl)
    [ "$KUBECONFIG" = "$ADMIN" ] || return 0
    "$kubectl" get crd httproutes.gateway.networking.k8s.io >/dev/null 2>&1 ||
        "$kubectl" apply --server-side -f "$STATE/crds/standard" >/dev/null
}

load() {
    local start=$SECONDS
    "$ROOT/images/build.sh" --binaries "$RELEASE" --tag "$tag" --out "$IMAGES" >&2
    workload_image "oci-archive:$IMAGES/$WORKLOAD.tar:docker.io/library/$WORKLOAD:test"
    ./load.sh "$IMAGES"/heddle-{proxy,init,injector}.tar "$IMAGES/$WORKLOAD.tar"
    echo "$tag" >"$STATE/heddle"
    say "the images are built and loaded after $((SECONDS - start)) s"
}

push() {
    registry=${HEDDLE_REGISTRY:-}
    [ -n "$registry" ] || fail "KUBECONFIG is $KUBECONFIG; set HEDDLE_REGISTRY to a registry that its nodes pull from"
    "$ROOT/images/build.sh" --binaries "$RELEASE" --tag "$tag" --out "$IMAGES" --push "$registry" >&2
    workload_image "docker://$registry/$WORKLOAD:test"
}

# The tests' own server and client, curl, and as much of a shell as a pod's manifest may want.
workload_image() {
    local work root program
    work=$(mktemp -d)
    root=$work/root
    "$ROOT/images/rootfs.sh" echo "$RELEASE/echo" "$root"
    for program in curl sleep dash cat; do
        "$ROOT/images/rootfs.sh" "$program" "$(readlink -f "$(type -P "$program")")" "$work/$program"
        cp -rn "$work/$program/." "$root"
    done
    ln -s dash "$root/usr/local/bin/sh"
    mkdir -p "$root/bin" "$root/tmp"
    ln -s /usr/local/bin/dash "$root/bin/sh"
    chmod 1777 "$root/tmp"
    for step in "bud --quiet --isolation chroot --file workload/Containerfile --tag $WORKLOAD $root" "push --quiet $WORKLOAD $1"; do
        # shellcheck disable=SC2086 # words
        buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs $step >/dev/null
    done
    chmod -R u+w "$work"
    rm -rf "$work"
}

install_heddle() {
    local start=$SECONDS
    helm upgrade --install heddle "$ROOT/charts/heddle" -n heddle-system --create-namespace --wait --timeout 120s \
        --set image.tag="$tag" ${registry:+--set image.registry="$registry"} "$@" >/dev/null || show
    say "Heddle is installed after $((SECONDS - start)) s"
}

show() {
    local kubectl
    kubectl=$(find_kubectl)
    "$kubectl" -n heddle-system get pods -o wide >&2 || true
    "$kubectl" -n heddle-system get events --sort-by .lastTimestamp 2>/dev/null | tail -n 15 >&2 || true
    "$kubectl" -n heddle-system logs deployment/heddle-injector --tail 30 >&2 || true
    fail "Heddle could not be installed"
}

main "$@"
