//! The two containers and two volumes that a pod gets.

use mesh::contract::{
    BUNDLE_CONFIG_MAP, CONTROL_PORT, HEALTH_PORT, INIT_CONTAINER, METRICS_PORT, PROXY_CONTAINER, PROXY_UID,
    TOKEN_AUDIENCE,
};
use mesh::settings::{AccessLog, MtlsMode, PortSet, Settings};
use serde_json::{Map, Value, json};

use super::Config;

/// Holds the projected service account token.
pub const TOKEN_VOLUME: &str = "heddle-token";
/// Holds the roots to trust.
pub const BUNDLE_VOLUME: &str = "heddle-bundle";

/// The variable that tells the proxy which probes and hooks to replay.
pub const PROBES: &str = "HEDDLE_APP_PROBES";

/// A token's life in seconds: the longest that the control plane takes.
const TOKEN_SECONDS: u32 = 3600;

/// Seconds (one probe each) in which a proxy must get ready before its pod's start is given up.
const STARTUP_SECONDS: u32 = 60;

/// heddle-init: sets up the redirection, and leaves. The two capabilities are all that iptables needs.
pub fn init(settings: &Settings, config: &Config) -> Value {
    let mut args: Vec<String> = Vec::new();
    let cidrs: Vec<String> = settings.skip_outbound_cidrs.iter().map(ToString::to_string).collect();
    for (flag, value) in [
        ("--skip-inbound-ports", settings.skip_inbound_ports.to_string()),
        ("--skip-outbound-ports", settings.skip_outbound_ports.to_string()),
        ("--skip-outbound-cidrs", cidrs.join(",")),
    ] {
        if !value.is_empty() {
            args.extend([flag.to_owned(), value]);
        }
    }
    let mut container = json!({
        "name": INIT_CONTAINER,
        "image": config.init_image,
        "command": ["heddle-init"],
        "args": args,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    });
    // Where a quota asks for them, it asks of every container.
    if let Some(resources) = resources(settings) {
        container["resources"] = resources;
    }
    container
}

/// heddle-proxy: a native sidecar, so that it starts before the application and ends after it.
pub fn proxy(settings: &Settings, config: &Config, probes: &Map<String, Value>) -> Value {
    let mut container = json!({
        "name": PROXY_CONTAINER,
        "image": config.proxy_image,
        "command": ["heddle-proxy"],
        "restartPolicy": "Always",
        "env": environment(settings, config, probes),
        "ports": [
            {"name": "heddle-metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
            {"name": "heddle-health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": HEALTH_PORT}, "periodSeconds": 1, "failureThreshold": STARTUP_SECONDS,
        },
        "livenessProbe": {"httpGet": {"path": "/live", "port": HEALTH_PORT}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/heddle.dev/token", "readOnly": true},
            {"name": BUNDLE_VOLUME, "mountPath": "/var/run/secrets/heddle.dev/bundle", "readOnly": true},
        ],
    });
    if let Some(resources) = resources(settings) {
        container["resources"] = resources;
    }
    container
}

/// The volumes: a token of our audience, and the bundle that the control plane keeps in each namespace.
pub fn volumes() -> [Value; 2] {
    let token = json!({"path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS});
    [
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        json!({"name": BUNDLE_VOLUME, "configMap": {"name": BUNDLE_CONFIG_MAP}}),
    ]
}

fn resources(settings: &Settings) -> Option<Value> {
    let quantities = |cpu: &Option<String>, memory: &Option<String>| -> Map<String, Value> {
        let all = [("cpu", cpu), ("memory", memory)];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value.as_ref()?)))).collect()
    };
    let mut resources = Map::new();
    for (name, quantities) in [
        ("requests", quantities(&settings.proxy_cpu_request, &settings.proxy_memory_request)),
        ("limits", quantities(&settings.proxy_cpu_limit, &settings.proxy_memory_limit)),
    ] {
        if !quantities.is_empty() {
            resources.insert(name.to_owned(), Value::Object(quantities));
        }
    }
    (!resources.is_empty()).then_some(Value::Object(resources))
}

/// How many freed blocks of each size up to 1 KiB glibc keeps at hand, instead of 7: as many as there are requests at a
/// time in a busy proxy. It is 5 % of the CPU, and can only be told from without.
const ALLOCATOR: &str = "glibc.malloc.tcache_count=127";

/// The proxy's settings; what is empty is left out.
fn environment(settings: &Settings, config: &Config, probes: &Map<String, Value>) -> Vec<Value> {
    let from_pod = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("POD_UID", "metadata.uid"),
        ("POD_IPS", "status.podIPs"),
        ("HOST_IPS", "status.hostIPs"),
        ("NODE_NAME", "spec.nodeName"),
        ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    let from_pod =
        from_pod.map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    let values = values(settings, config, probes);
    let set = values.into_iter().filter(|(_, value)| !value.is_empty());
    from_pod.into_iter().chain(set.map(|(name, value)| json!({"name": name, "value": value}))).collect()
}

fn values(settings: &Settings, config: &Config, probes: &Map<String, Value>) -> [(&'static str, String); 14] {
    let ports = |ports: &PortSet| ports.to_string();
    let probes = if probes.is_empty() { String::new() } else { Value::Object(probes.clone()).to_string() };
    let drain = settings.drain_seconds.map(|seconds| seconds.to_string());
    [
        ("HEDDLE_CONTROL", format!("https://heddle-injector.heddle-system.svc:{CONTROL_PORT}")),
        ("HEDDLE_TRUST_DOMAIN", config.trust_domain.clone()),
        ("HEDDLE_MTLS_MODE", mode(settings.mtls_mode.unwrap_or(config.mtls_mode)).to_owned()),
        ("HEDDLE_CLUSTER_CIDRS", config.cluster_cidrs.join(",")),
        ("HEDDLE_OPAQUE_PORTS", ports(&settings.opaque_ports)),
        ("HEDDLE_SKIP_INBOUND_PORTS", ports(&settings.skip_inbound_ports)),
        ("HEDDLE_PLAINTEXT_INBOUND_PORTS", ports(&settings.plaintext_inbound_ports)),
        ("HEDDLE_LOG", settings.log_level.clone().unwrap_or_default()),
        ("HEDDLE_ACCESS_LOG", access_log(settings.access_log).to_owned()),
        ("HEDDLE_DRAIN_SECONDS", drain.unwrap_or_default()),
        (PROBES, probes),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", config.otlp_endpoint.clone().unwrap_or_default()),
        ("GLIBC_TUNABLES", ALLOCATOR.to_owned()),
        ("OTEL_TRACES_SAMPLER_ARG", config.trace_ratio.map(|ratio| ratio.to_string()).unwrap_or_default()),
    ]
}

fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
    }
}

fn access_log(log: AccessLog) -> &'static str {
    match log {
        AccessLog::Off => "off",
        AccessLog::Errors => "errors",
        AccessLog::All => "all",
    }
}
