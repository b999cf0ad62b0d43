#!/usr/bin/env bash
# Gives the cluster images, from archives such as "buildah push IMAGE oci-archive:FILE:IMAGE" writes. There is no
# registry. Usage: tests/cluster/load.sh FILE...
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || fail "usage: tests/cluster/load.sh FILE..."
node_pid >/dev/null || fail "the cluster is not up; make cluster brings it up"
for file in "$@"; do
    [ -r "$file" ] || fail "cannot read $file"
    in_node "$STATE/bin/ctr" --namespace k8s.io images import - <"$file" >"$LOGS/load.log" 2>&1 ||
        fail "containerd does not take $file: $(tail -n 1 "$LOGS/load.log")"
done
