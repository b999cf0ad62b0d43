#!/usr/bin/env bash
# Ends the cluster and removes everything that it left, also after a crash. Usage: tests/cluster/down.sh [--quiet]
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Containers' control groups are in a group of this name in each hierarchy, which other clusters may share.
CGROUPS='/sys/fs/cgroup/*/k8s.io'
# Where containerd keeps what it knows of running containers: a directory each, named as their groups are.
CONTAINERS=$DISK/run/containerd/io.containerd.runtime.v2.task/k8s.io

main() {
    local start=$SECONDS
    if [ -n "${KUBECONFIG:-}" ] && [ "$KUBECONFIG" != "$ADMIN" ]; then
        say "KUBECONFIG is $KUBECONFIG, which was not brought up here: left alone"
        return
    fi
    [ "$(id -u)" = 0 ] || fail "only root can end the cluster"
    end_processes
    unmount
    remove_link
    remove_cgroups
    rm -rf --one-file-system "$STATE" "$DISK"
    [ "${1:-}" = --quiet ] || say "down after $((SECONDS - start)) s"
}

# With the node's first process the kernel ends all of them, and its end is the last. With them go the node's mounts and
# network. What made the namespaces waits for that process, and leaves after it.
end_processes() {
    local pid first
    pid=$(node_pid) || return 0
    first=$(ps -o pid= --ppid "$pid") || first=$pid
    # shellcheck disable=SC2086 # ps pads it
    kill -KILL $first 2>/dev/null || true
    until_gone "the processes of the node" ended "$pid"
}

ended() { ! started "$1" >/dev/null || [ "$(ps -o stat= "$1" | cut -c 1)" = Z ]; }

# Mounts of the node are in its own namespace. This is for what else somebody mounted there.
unmount() {
    local at
    awk -v a="$STATE/" -v b="$DISK/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/self/mounts | sort -r |
        while read -r at; do
            umount "$at" || umount --lazy "$at"
        done
}

remove_link() {
    [ ! -e "/sys/class/net/$NAME" ] || ip link del "$NAME" 2>/dev/null || true
}

remove_cgroups() {
    local container group
    for container in "$CONTAINERS"/*; do
        [ -d "$container" ] || continue
        for group in $CGROUPS/"${container##*/}"; do
            [ ! -d "$group" ] || until_gone "the control group $group" remove_group "$group"
        done
    done
    # shellcheck disable=SC2086 # a pattern
    rmdir $CGROUPS 2>/dev/null || true
}

# Innermost first.
remove_group() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; }

until_gone() {
    local what=$1 until=$((SECONDS + 30))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || fail "$what did not go away"
        sleep 0.1
    done
}

main "$@"
