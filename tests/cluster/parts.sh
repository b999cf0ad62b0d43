# shellcheck shell=bash
# The programs of the node: how each is started, stopped, and known to be ready.

# Name and command. It goes on when whoever started it ends.
launch() {
    local part=$1
    shift
    mkdir -p "$STATE/pids"
    # shellcheck disable=SC2016 # its own pid, as the node counts
    in_node setsid bash -c 'echo $$ >"$1"; shift; exec "$@"' "$part" "$STATE/pids/$part" "$@" \
        </dev/null >>"$LOGS/$part.log" 2>&1 9>&- &
    disown
}

start_etcd() {
    # What it holds ends with the machine's run anyway: it need not wait for the disk.
    launch etcd etcd --name "$NAME" --data-dir /var/lib/etcd --unsafe-no-fsync --logger zap --log-outputs stderr \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster "$NAME=http://127.0.0.1:2380"
}
ready_etcd() { in_node curl -sf http://127.0.0.1:2379/health; }

start_kube-apiserver() {
    launch kube-apiserver "$STATE/bin/kube-apiserver" \
        --advertise-address "$NODE4" --etcd-servers http://127.0.0.1:2379 \
        --service-cluster-ip-range "$SERVICES4,$SERVICES6" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
        --client-ca-file "$PKI/ca.crt" --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
        --kubelet-preferred-address-types InternalIP --kubelet-certificate-authority "$PKI/ca.crt" \
        --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" \
        --kubelet-client-key "$PKI/apiserver-kubelet-client.key" \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$PKI/service-accounts.pub" \
        --service-account-signing-key-file "$PKI/service-accounts.key"
}
ready_kube-apiserver() { kubectl get --raw /readyz; }

# When an API server comes back after minutes, no node has been heard of meanwhile; the only one here must not be taken for
# dead at that moment, with all pods on it.
start_kube-controller-manager() {
    launch kube-controller-manager "$STATE/bin/kube-controller-manager" \
        --kubeconfig "$PKI/kube-controller-manager.conf" --leader-elect=false --bind-address 127.0.0.1 \
        --use-service-account-credentials --service-account-private-key-file "$PKI/service-accounts.key" \
        --node-monitor-grace-period 10m \
        --root-ca-file "$PKI/ca.crt" --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
        --allocate-node-cidrs --cluster-cidr "$PODS4,$PODS6" --node-cidr-mask-size-ipv4 24 --node-cidr-mask-size-ipv6 64 \
        --service-cluster-ip-range "$SERVICES4,$SERVICES6" --flex-volume-plugin-dir /var/lib/kubelet/volume-plugins
}
ready_kube-controller-manager() { in_node curl -skf https://127.0.0.1:10257/healthz; }

start_kube-scheduler() {
    launch kube-scheduler "$STATE/bin/kube-scheduler" \
        --kubeconfig "$PKI/kube-scheduler.conf" --leader-elect=false --bind-address 127.0.0.1
}
ready_kube-scheduler() { in_node curl -skf https://127.0.0.1:10259/healthz; }

start_containerd() { launch containerd "$STATE/bin/containerd" --config "$CONFIG/containerd.toml"; }
ready_containerd() { in_node "$STATE/bin/ctr" version; }

start_kubelet() {
    launch kubelet "$STATE/bin/kubelet" --config "$CONFIG/kubelet.yaml" --kubeconfig "$PKI/kubelet.conf" \
        --hostname-override "$NAME" --node-ip "$NODE4,$NODE6"
}
ready_kubelet() { in_node curl -sf http://127.0.0.1:10248/healthz; }

start_kube-proxy() { launch kube-proxy "$STATE/bin/kube-proxy" --config "$CONFIG/kube-proxy.yaml"; }
ready_kube-proxy() { in_node curl -sf http://127.0.0.1:10256/healthz; }

# Starts a part that does not run, and waits until it is ready.
start_part() {
    ! runs "$1" || return 0
    "start_$1"
    wait_for "$1" 60 "$1 is ready" "ready_$1"
}

# A signal for a part, by the pid that it recorded, as the node counts them.
signal_part() {
    in_node kill "-$2" "$(<"$STATE/pids/$1")"
}

stop_part() {
    runs "$1" || return 0
    signal_part "$1" TERM
    # It may not be waited for as one that must not end.
    wait_for none 30 "$1 has ended" ended "$1"
}

runs() { [ -s "$STATE/pids/$1" ] && in_node kill -0 "$(<"$STATE/pids/$1")" 2>/dev/null; }
ended() { ! runs "$1"; }

# The part that it takes, seconds, what is waited for, and the command that succeeds when it is so. A part that has ended
# is not waited for.
wait_for() {
    local part=$1 until=$((SECONDS + $2)) what=$3 start=$SECONDS
    shift 3
    until "$@" >/dev/null 2>"$STATE/last-error"; do
        [ ! -s "$STATE/pids/$part" ] || runs "$part" || give_up "$part has ended"
        [ "$SECONDS" -lt "$until" ] || give_up "after $((SECONDS - start)) s it is still not so that $what"
        sleep 0.2
    done
    say "$what after $((SECONDS - start)) s"
}

give_up() {
    local log=$LOGS/$part.log
    [ ! -s "$STATE/last-error" ] || say "last said: $(tail -n 2 "$STATE/last-error")"
    [ -s "$log" ] || fail "$1; the logs are in $LOGS"
    tail -n 15 "$log" | cut -c 1-300 >&2
    fail "$1; its log is $log"
}
