#!/usr/bin/env bash
# Stops a program of the cluster, starts it again, or sends it a signal: to see what the mesh does meanwhile.
# Usage: tests/cluster/part.sh stop|start PART, tests/cluster/part.sh signal PART SIGNAL
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh
. ./pki.sh
. ./config.sh
. ./parts.sh

USAGE="usage: tests/cluster/part.sh stop|start PART, or tests/cluster/part.sh signal PART SIGNAL"

[ $# -ge 2 ] || fail "$USAGE"
declare -F "start_$2" >/dev/null || fail "no part $2; there are: $(declare -F | sed -n 's/.* start_//p' | grep -v '^part$' | xargs)"
node_pid >/dev/null || fail "the cluster is not up; make cluster brings it up"
case $1 in
    stop | start) "$1_part" "$2" ;;
    signal) signal_part "$2" "${3:?$USAGE}" ;;
    *) fail "$USAGE" ;;
esac
