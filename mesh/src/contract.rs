//! The names and numbers that Heddle's programs, its chart and its users rely on, each written once.

/// The UID and GID of the proxy. Packets of this user are never redirected.
pub const PROXY_UID: u32 = 1337;
/// Where the proxy accepts the connections that its pod opens.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy accepts the connections that come to its pod.
pub const INBOUND_PORT: u16 = 15006;
/// Kept free for HBONE.
pub const HBONE_PORT: u16 = 15008;
/// The proxy's admin server, on loopback only.
pub const ADMIN_PORT: u16 = 15000;
/// The proxy's Prometheus metrics.
pub const METRICS_PORT: u16 = 15020;
/// The proxy's `/live`, `/ready` and the rewritten kubelet probes.
pub const HEALTH_PORT: u16 = 15021;

/// The control plane's certificate signing and discovery, over TLS.
pub const CONTROL_PORT: u16 = 15012;
/// The control plane's mutating webhook.
pub const WEBHOOK_PORT: u16 = 15017;
/// The control plane's Prometheus metrics.
pub const CONTROL_METRICS_PORT: u16 = 15014;
/// The control plane's `/live` and `/ready`.
pub const CONTROL_HEALTH_PORT: u16 = 15021;

/// The controller name in the status of routes.
pub const CONTROLLER_NAME: &str = "heddle.dev/mesh-controller";
/// The control plane's namespace.
pub const SYSTEM_NAMESPACE: &str = "heddle-system";
/// The label on a Namespace or Pod that asks for the mesh; the Pod's wins.
pub const INJECT_LABEL: &str = "heddle.dev/inject";
/// The ConfigMap that holds the roots to trust, in each namespace that has meshed pods.
pub const BUNDLE_CONFIG_MAP: &str = "heddle-root";
/// The roots' key in it.
pub const BUNDLE_KEY: &str = "root.pem";
/// What the names of Heddle's annotations begin with.
pub const ANNOTATION_PREFIX: &str = "heddle.dev/";
/// The audience of the tokens that a proxy shows to the control plane.
pub const TOKEN_AUDIENCE: &str = "heddle.dev";
/// The ALPN of mesh TLS with HTTP/2 inside.
pub const ALPN_H2: &[u8] = b"heddle/h2";
/// The ALPN of mesh TLS with the bytes of one TCP connection inside.
pub const ALPN_TCP: &[u8] = b"heddle/tcp";
/// The ALPN of mesh TLS with TCP connections inside, one after another.
pub const ALPN_TUNNELS: &[u8] = b"heddle/tunnels";
/// What mesh TLS may have inside, in the order in which a server prefers it.
pub const ALPN_MESH: [&[u8]; 3] = [ALPN_H2, ALPN_TUNNELS, ALPN_TCP];
/// The trust domain, unless an operator names another.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// The init container that sets up redirection.
pub const INIT_CONTAINER: &str = "heddle-init";
/// The native sidecar that carries the pod's traffic.
pub const PROXY_CONTAINER: &str = "heddle-proxy";

/// What of the Gateway API the mesh supports, by the conformance suite's names, sorted as an XMesh lists them.
pub const SUPPORTED_FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_features_are_sorted_and_each_named_once() {
        assert!(SUPPORTED_FEATURES.is_sorted_by(|a, b| a < b));
    }
}
