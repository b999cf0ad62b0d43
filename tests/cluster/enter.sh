#!/usr/bin/env bash
# Runs a command in the cluster's node, or a shell: its network is there (tcpdump, iptables, curl of a pod), and
# containerd's own client (ctr). Usage: tests/cluster/enter.sh [COMMAND...]
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || set -- "${SHELL:-bash}"
PATH=$STATE/bin:$PATH in_node "$@"
