# shellcheck shell=bash disable=SC2034 # read by those who source it
# What the cluster's scripts share: names, addresses, and how to do something inside of the node.

say() { echo "cluster: $*" >&2; }
fail() { echo "cluster: error: $*" >&2; exit 1; }

# More than one cluster can be up on one machine: each has a number.
NUMBER=${HEDDLE_CLUSTER:-0}
[[ $NUMBER =~ ^([0-9]|[1-5][0-9]|6[0-2])$ ]] || fail "HEDDLE_CLUSTER is the number of the cluster, 0 to 62, not '$NUMBER'"
NAME=heddle-cluster
[ "$NUMBER" = 0 ] || NAME=heddle-cluster$NUMBER

# Sockets, certificates, configuration and logs; and what is large. Both vanish with the cluster.
STATE=/run/$NAME
DISK=/var/lib/$NAME
LOGS=$STATE/log
ADMIN=$STATE/kubeconfig

# The link to the machine is out of a range that is nobody's: 198.18.0.0/15 is set aside for benchmarks (RFC 2544).
LINK4=198.18.231
HOST4=$LINK4.$((4 * NUMBER + 1)) NODE4=$LINK4.$((4 * NUMBER + 2))
LINK6=fd68:6564:646c:$((100 + NUMBER))
HOST6=$LINK6::1 NODE6=$LINK6::2
# These are known in the node alone.
PODS4=10.244.0.0/24 PODS6=fd68:6564:646c:1::/64
SERVICES4=10.96.0.0/16 SERVICES6=fd68:6564:646c:2::/112
FIRST_SERVICE4=10.96.0.1 DNS4=10.96.0.10

# The process that holds the node's namespaces, if it is the one that was recorded: pids come round again.
node_pid() {
    local pid since
    read -r pid since 2>/dev/null <"$STATE/node" || return 1
    [ "$(started "$pid")" = "$since" ] && echo "$pid"
}

# When a process started, in ticks since the machine did. A process's name may hold spaces and brackets.
started() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    awk '{ print $20 }' <<<"${stat##*) }"
}

# Runs a command in the node: its mounts, its network, its processes.
in_node() {
    local pid
    pid=$(node_pid) || fail "the cluster is not up; make cluster brings it up"
    nsenter --target "$pid" --mount --net --pid="/proc/$pid/ns/pid_for_children" "$@"
}

kubectl() { "$STATE/bin/kubectl" --kubeconfig "$ADMIN" --cache-dir "$STATE/kubectl" "$@"; }

# The program, also where no cluster of these scripts is up.
find_kubectl() {
    type -P "$STATE/bin/kubectl" || type -P kubectl || fail "kubectl is missing; install it, or bring a cluster up here, which has one"
}
