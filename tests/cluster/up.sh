#!/usr/bin/env bash
# Brings up a Kubernetes of one node on this machine, in namespaces of its own, or says that it is up. Its KUBECONFIG is
# printed at the end. With KUBECONFIG of another cluster set, that one is checked and used.
# Usage: tests/cluster/up.sh [--no-node]: without a node there is an API server and its controllers, and no pod ever runs
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh
. ./pki.sh
. ./config.sh
. ./parts.sh

CONTROL_PLANE=(etcd kube-apiserver kube-controller-manager kube-scheduler)
NODE_PARTS=(containerd kubelet kube-proxy)
IMAGES=(pause coredns echo)

main() {
    local node=yes
    case ${1:-} in
        '') ;;
        --no-node) node= ;;
        *) fail "usage: tests/cluster/up.sh [--no-node]" ;;
    esac
    if [ -n "${KUBECONFIG:-}" ] && [ "$KUBECONFIG" != "$ADMIN" ]; then
        use_another
        return
    fi
    [ "$(id -u)" = 0 ] || fail "namespaces need root; run this as root, or set KUBECONFIG to use another cluster"
    ../setup.sh cluster >&2
    build_all
    lock
    if ! is_up; then
        ./down.sh --quiet
        bring_up
    fi
    say_how_to_use_it
}

use_another() {
    local kubectl
    kubectl=$(find_kubectl)
    "$kubectl" get --raw /readyz >/dev/null || fail "KUBECONFIG is $KUBECONFIG, and its cluster does not answer"
    say "using the cluster of KUBECONFIG=$KUBECONFIG"
    echo "export KUBECONFIG=$KUBECONFIG"
}

# Sets the directory of each part.
build_all() {
    local part directory
    declare -gA built
    for part in crds kube ${node:+containerd "${IMAGES[@]}"}; do
        directory=$(./build.sh "$part")
        built[$part]=$directory
    done
    built[helm]=$(../tools/build.sh helm)
    made_of=$(cat ./*.sh ./*.yaml | sha256sum; printf '%s\n' "${built[@]}" | sort)
}

# One at a time on this machine.
lock() {
    exec 9<"${built[kube]}"
    flock 9
}

# Up, made of what it would be made of now, and all there.
is_up() {
    local part
    node_pid >/dev/null && [ "$(cat "$STATE/made-of" 2>/dev/null)" = "$made_of" ] || return 1
    for part in "${CONTROL_PLANE[@]}" ${node:+"${NODE_PARTS[@]}"}; do
        runs "$part" || return 1
    done
    kubectl get --raw /readyz >/dev/null 2>&1
}

bring_up() {
    local start=$SECONDS part
    mkdir -p "$STATE" "$DISK" "$LOGS"
    chmod 700 "$STATE" "$DISK"
    install_programs
    write_certificates 2>"$LOGS/openssl.log" || fail "cannot make the certificates; the log is $LOGS/openssl.log"
    write_configs
    make_namespaces
    connect
    for part in "${CONTROL_PLANE[@]}"; do
        start_part "$part"
    done
    [ -z "$node" ] || bring_up_node
    echo "$made_of" >"$STATE/made-of"
    say "up after $((SECONDS - start)) s"
}

# One place for all of them, whatever they were made from.
install_programs() {
    local program
    mkdir -p "$STATE/bin"
    for program in "${built[kube]}"/kube* "${built[helm]}/helm" ${node:+"${built[containerd]}"/*}; do
        ln -s "$program" "$STATE/bin"
    done
    ln -s "${built[crds]}" "$STATE/crds"
}

make_namespaces() {
    # When the first process of the process namespace ends, so does everything in it.
    setsid unshare --mount --net --pid --fork --kill-child --mount-proc \
        ./node.sh "$STATE" "$DISK" </dev/null >"$LOGS/node.log" 2>&1 9>&- &
    echo "$! $(started $!)" >"$STATE/node"
    disown
    wait_for node 10 "the node has its namespaces" test -e "$STATE/node-is-up"
}

connect() {
    ip link add "$NAME" type veth peer name eth0 netns "$(node_pid)"
    ip addr add "$HOST4/30" dev "$NAME"
    ip addr add "$HOST6/64" dev "$NAME" nodad
    ip link set "$NAME" up
    in_node ip addr add "$NODE4/30" dev eth0
    in_node ip addr add "$NODE6/64" dev eth0 nodad
    in_node ip link set eth0 up
    in_node ip route add default via "$HOST4"
    in_node ip -6 route add default via "$HOST6"
}

bring_up_node() {
    local part
    start_part containerd
    import_images
    for part in kubelet kube-proxy; do
        start_part "$part"
    done
    wait_for kubelet 60 "the node is ready" node_is_ready
    kubectl apply --server-side -f coredns.yaml >/dev/null
    wait_for kubelet 60 "the cluster's DNS is ready" kubectl -n kube-system rollout status deployment/coredns --timeout=2s
}

import_images() {
    local image
    for image in "${IMAGES[@]}"; do
        ./load.sh "${built[$image]}/image.tar"
    done
}

node_is_ready() {
    [ "$(kubectl get node "$NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

say_how_to_use_it() {
    say "kubectl, helm and ctr are in $STATE/bin, the logs in $LOGS"
    say "this shell uses it after:"
    echo "export KUBECONFIG=$ADMIN PATH=$STATE/bin:\$PATH"
}

main "$@"
