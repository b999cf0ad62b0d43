#!/usr/bin/env bash
# Gives the cluster images, from archives such as "buildah push IMAGE oci-archive:FILE:IMAGE" writes. There is no
# registry. Usage: tests/cluster/load.sh FILE...
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check_number
[ $# -gt 0 ] || fail "usage: tests/cluster/load.sh FILE..."
for file in "$@"; do
    [ -r "$file" ] || fail "cannot read $file"
    in_node "$STATE/bin/ctr" --namespace k8s.io images import - <"$file" >"$LOGS/load.log" 2>&1 ||
        fail "containerd does not take $file: $(tail -n 2 "$LOGS/load.log")"
done
