//! DNS by hosts files: what every name of a world resolves to, as seen from one pod. Pure but for [`rewrite`].

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::belongs;
use crate::net::CONTROL;

/// The cluster's domain.
const DOMAIN: &str = "cluster.local";

/// The hosts file of a pod: itself, its aliases, the control plane, all Services, headless ones by their
/// ready endpoints.
pub fn hosts(own: &Pod, services: &[Service], slices: &[EndpointSlice]) -> String {
    let namespace = own.metadata.namespace.as_deref().unwrap_or_default();
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    write_own(own, &mut text);
    for ip in CONTROL.texts() {
        let _ = writeln!(text, "{ip} {}", forms("heddle-injector", "heddle-system", namespace));
    }
    for service in services {
        write_service(service, slices, namespace, &mut text);
    }
    text
}

/// The name that a pod calls itself.
pub fn hostname(pod: &Pod) -> String {
    let written = pod.spec.as_ref().and_then(|s| s.hostname.clone());
    let mut name = written.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(63);
    name
}

fn write_own(own: &Pod, text: &mut String) {
    let ips = own.status.as_ref().and_then(|s| s.pod_ips.as_ref());
    for ip in ips.into_iter().flatten() {
        let _ = writeln!(text, "{} {}", ip.ip, hostname(own));
    }
    let aliases = own.spec.as_ref().and_then(|s| s.host_aliases.as_ref());
    for alias in aliases.into_iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join(" ");
        let _ = writeln!(text, "{} {names}", alias.ip);
    }
}

fn write_service(service: &Service, slices: &[EndpointSlice], viewer: &str, text: &mut String) {
    let meta = &service.metadata;
    let (Some(name), Some(namespace)) = (meta.name.as_deref(), meta.namespace.as_deref()) else { return };
    let ips = service.spec.as_ref().and_then(|s| s.cluster_ips.as_deref()).unwrap_or_default();
    for ip in ips.iter().filter(|ip| *ip != "None") {
        let _ = writeln!(text, "{ip} {}", forms(name, namespace, viewer));
    }
    if !ips.iter().any(|ip| ip == "None") {
        return;
    }
    let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
        e.conditions.as_ref().and_then(|c| c.ready) != Some(false)
    };
    let mut slices: Vec<_> = slices.iter().filter(|slice| belongs(slice, service)).collect();
    slices.sort_by(|a, b| a.address_type.cmp(&b.address_type));
    for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().filter(ready)) {
        let own = endpoint
            .hostname
            .as_ref()
            .map(|host| format!(" {}", forms(&format!("{host}.{name}"), namespace, viewer)));
        for ip in &endpoint.addresses {
            let _ = writeln!(
                text,
                "{ip} {}{}",
                forms(name, namespace, viewer),
                own.as_deref().unwrap_or_default()
            );
        }
    }
}

/// Every form that a name has, the short one only within the namespace.
fn forms(name: &str, namespace: &str, viewer: &str) -> String {
    let short = if namespace == viewer { format!(" {name}") } else { String::new() };
    format!("{name}.{namespace}.svc.{DOMAIN} {name}.{namespace}.svc {name}.{namespace}{short}")
}

/// What the resolver does with names in no hosts file: fail at once, since nothing listens there.
pub fn resolv_conf(namespace: &str) -> String {
    format!(
        "nameserver 127.0.0.1\nsearch {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5 timeout:1 attempts:1\n"
    )
}

/// For glibc: IPv4 before IPv6, so that servers which listen on IPv4 alone are reached as in other clusters.
pub const GAI_CONF: &str = "precedence ::ffff:0:0/96 100\n";

/// Replaces a mounted file's text in place, since a rename would not be seen through the mount. One write, padded to
/// the old length, so that a reader finds no half line.
pub fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    let old = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut padded = text.to_owned();
    padded.extend(std::iter::repeat_n('\n', old.saturating_sub(text.len())));
    file.write_all_at(padded.as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, spec: &str) -> Service {
        let yaml =
            format!("metadata: {{namespace: shop, name: {name}}}\nspec: {{selector: {{app: db}}, {spec}}}");
        serde_norway::from_str(&yaml).expect("a service")
    }

    fn pod(namespace: &str, name: &str, spec: &str, ip: &str) -> Pod {
        let yaml = format!(
            "metadata: {{namespace: {namespace}, name: {name}, labels: {{app: db}}}}\nspec: {{containers: []{spec}}}\n\
             status: {{phase: Running, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}"
        );
        serde_norway::from_str(&yaml).expect("a pod")
    }

    #[track_caller]
    fn check(viewer: &Pod, services: &[Service], pods: &[Pod], lines: &[&str]) {
        let slices = crate::endpoints::all(services, pods).into_iter();
        let slices: Vec<EndpointSlice> =
            slices.map(|s| serde_json::from_value(s).expect("a slice")).collect();
        let text = hosts(viewer, services, &slices);
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn short_names_are_for_the_own_namespace() {
        let web = [service("web", "clusterIPs: [10.96.0.5]")];
        let full = "10.96.0.5 web.shop.svc.cluster.local web.shop.svc web.shop";
        check(&pod("shop", "a", "", "10.1.0.2"), &web, &[], &[&format!("{full} web"), "10.1.0.2 a"]);
        check(&pod("other", "a", "", "10.1.0.2"), &web, &[], &[full]);
    }

    #[test]
    fn headless_services_resolve_to_pods_and_pods_by_name() {
        let headless = [service("db", "clusterIPs: [None]")];
        let pods = [pod("shop", "db-0", ", hostname: db-0, subdomain: db", "10.1.0.3")];
        check(
            &pod("other", "a", "", "10.1.0.2"),
            &headless,
            &pods,
            &[
                "10.1.0.3 db.shop.svc.cluster.local db.shop.svc db.shop db-0.db.shop.svc.cluster.local db-0.db.shop.svc db-0.db.shop",
            ],
        );
    }

    #[test]
    fn a_rewritten_file_never_shrinks_to_half_a_line() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        rewrite(file.path(), "10.0.0.1 long-name\n").expect("written");
        rewrite(file.path(), "::1 a\n").expect("written");
        let text = std::fs::read_to_string(file.path()).expect("read");
        assert_eq!(text.trim_end(), "::1 a");
        assert_eq!(text.len(), 19);
    }
}
