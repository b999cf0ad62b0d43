# shellcheck shell=bash
# The cluster's certificates, all of one authority, for ten days; and the kubeconfigs that hold them.

PKI=$STATE/pki

write_certificates() {
    mkdir -p "$PKI"
    new_key ca
    openssl req -x509 -new -key "$PKI/ca.key" -subj "/CN=$NAME" -days 10 -out "$PKI/ca.crt"
    certificate apiserver "/CN=kube-apiserver" \
        "IP:$NODE4,IP:$NODE6,IP:127.0.0.1,IP:$FIRST_SERVICE4,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    certificate kubelet "/CN=system:node:$NAME/O=system:nodes" "IP:$NODE4,IP:$NODE6,DNS:$NAME"
    # The API server as a client of the kubelet.
    certificate apiserver-kubelet-client "/CN=kube-apiserver-kubelet-client/O=system:masters"
    new_key service-accounts
    openssl pkey -in "$PKI/service-accounts.key" -pubout -out "$PKI/service-accounts.pub"
    write_kubeconfigs
}

write_kubeconfigs() {
    local who
    certificate admin "/CN=admin/O=system:masters"
    for who in kube-controller-manager kube-scheduler kube-proxy; do
        certificate "$who" "/CN=system:$who"
    done
    for who in kubelet kube-controller-manager kube-scheduler kube-proxy; do
        kubeconfig "$who" >"$PKI/$who.conf"
    done
    kubeconfig admin >"$ADMIN"
    chmod 600 "$ADMIN"
}

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$PKI/$1.key"
}

# Name, subject, and the alternative names if it serves.
certificate() {
    local usage="extendedKeyUsage=clientAuth"
    [ $# -lt 3 ] || usage=$(printf 'extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=%s' "$3")
    new_key "$1"
    openssl req -new -key "$PKI/$1.key" -subj "$2" |
        openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 10 \
            -extfile <(echo "$usage") -out "$PKI/$1.crt" 2>/dev/null
}

kubeconfig() {
    cat <<-END
		apiVersion: v1
		kind: Config
		current-context: $NAME
		contexts:
		  - {name: $NAME, context: {cluster: $NAME, user: $1}}
		clusters:
		  - name: $NAME
		    cluster:
		      server: https://$NODE4:6443
		      certificate-authority-data: $(base64 -w 0 "$PKI/ca.crt")
		users:
		  - name: $1
		    user:
		      client-certificate-data: $(base64 -w 0 "$PKI/$1.crt")
		      client-key-data: $(base64 -w 0 "$PKI/$1.key")
	END
}
