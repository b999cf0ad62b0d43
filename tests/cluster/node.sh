#!/usr/bin/env bash
# The first process of the node, in its namespaces. It hides from the node what belongs to the machine, so that nothing
# the node does outlives it, and then takes in orphans. When it is killed, the kernel ends every process of the node.
# Usage: node.sh STATE DISK, by up.sh
set -euo pipefail

STATE=$1 DISK=$2

main() {
    own_directory /run "$STATE" "$DISK/run"
    own_directory /var/lib "$DISK" "$DISK/lib"
    own_directory /var/log "$DISK" "$DISK/log"
    hide_kernel_settings
    # Volumes that the kubelet mounts have to appear in containers.
    mount --make-rshared /
    ip link set lo up
    forward
    touch "$STATE/node-is-up"
    while :; do sleep infinity & wait; done
}

# A directory of the machine is another one here, in which the state keeps its path.
own_directory() {
    local at=$1 keep=$2 own=$3
    mkdir -p "$own"
    if [ "$(dirname "$keep")" = "$at" ]; then
        mkdir -p "$own/$(basename "$keep")"
        mount --bind "$keep" "$own/$(basename "$keep")"
    fi
    mount --rbind "$own" "$at"
}

# The kubelet sets these for the whole machine, unless they already say what it wants.
hide_kernel_settings() {
    local name value
    while read -r name value; do
        mkdir -p "$STATE/kernel"
        echo "$value" >"$STATE/kernel/${name##*/}"
        mount --bind "$STATE/kernel/${name##*/}" "/proc/sys/$name"
    done <<-END
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	END
}

# Of this network namespace alone.
forward() {
    local name
    for name in ipv4/ip_forward ipv6/conf/all/forwarding bridge/bridge-nf-call-iptables bridge/bridge-nf-call-ip6tables; do
        [ ! -e "/proc/sys/net/$name" ] || echo 1 >"/proc/sys/net/$name"
    done
}

main
