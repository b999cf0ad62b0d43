# shellcheck shell=bash
# The configuration of what runs in the node. Where it differs from what a cluster would have, it says why.

CONFIG=$STATE/config

write_configs() {
    mkdir -p "$CONFIG/cni"
    containerd_config >"$CONFIG/containerd.toml"
    cni_config >"$CONFIG/cni/pods.conflist"
    kubelet_config >"$CONFIG/kubelet.yaml"
    kube_proxy_config >"$CONFIG/kube-proxy.yaml"
    # What pods ask that do not ask the cluster's DNS. There is nobody.
    : >"$CONFIG/resolv.conf"
}

# Containers may start here without CAP_SYS_RESOURCE, which lowering an OOM score takes: restrict_oom_score_adj.
containerd_config() {
    cat <<-END
		version = 3
		root = '/var/lib/containerd'
		state = '/run/containerd'
		disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.image-verifier.v1.bindir']

		[grpc]
		address = '/run/containerd/containerd.sock'

		[plugins.'io.containerd.internal.v1.opt']
		path = '/var/lib/containerd/opt'

		[plugins.'io.containerd.cri.v1.images'.pinned_images]
		sandbox = 'registry.k8s.io/pause:3.10'

		[plugins.'io.containerd.cri.v1.runtime']
		restrict_oom_score_adj = true

		[plugins.'io.containerd.cri.v1.runtime'.cni]
		bin_dirs = ['/usr/lib/cni']
		conf_dir = '$CONFIG/cni'

		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
		runtime_type = 'io.containerd.runc.v2'

		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
		SystemdCgroup = false
	END
}

cni_config() {
    cat <<-END
		{
		  "cniVersion": "1.0.0",
		  "name": "pods",
		  "plugins": [
		    {
		      "type": "bridge",
		      "bridge": "cni0",
		      "isGateway": true,
		      "ipMasq": true,
		      "hairpinMode": true,
		      "ipam": {
		        "type": "host-local",
		        "ranges": [[{"subnet": "$PODS4"}], [{"subnet": "$PODS6"}]],
		        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
		      }
		    },
		    {"type": "portmap", "capabilities": {"portMappings": true}}
		  ]
		}
	END
}

# Control groups of the first version, with no tree of quality classes: that would be in the way of other clusters here.
# Images are never collected: there is no registry to get them from again.
kubelet_config() {
    cat <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $PKI/ca.crt}
		authorization: {mode: Webhook}
		tlsCertFile: $PKI/kubelet.crt
		tlsPrivateKeyFile: $PKI/kubelet.key
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		cgroupDriver: cgroupfs
		cgroupsPerQOS: false
		enforceNodeAllocatable: []
		failCgroupV1: false
		failSwapOn: false
		clusterDomain: cluster.local
		clusterDNS: [$DNS4]
		resolvConf: $CONFIG/resolv.conf
		volumePluginDir: /var/lib/kubelet/volume-plugins
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 100Mi}
		maxPods: 200
		maxOpenFiles: $(ulimit -Hn)
		oomScoreAdj: 0
	END
}

# Connection tracking's limits are the machine's, not the node's.
kube_proxy_config() {
    cat <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: iptables
		clientConnection: {kubeconfig: $PKI/kube-proxy.conf}
		clusterCIDR: $PODS4,$PODS6
		hostnameOverride: $NAME
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
		oomScoreAdj: 0
	END
}
