//! Pods that are denied, since injection would weaken them or could not work (security rule 19).

use k8s_openapi::api::core::v1::{Container, Pod};
use mesh::contract::{
    ADMIN_PORT, HBONE_PORT, HEALTH_PORT, INBOUND_PORT, INIT_CONTAINER, METRICS_PORT, OUTBOUND_PORT,
    PROXY_CONTAINER, PROXY_UID,
};

use super::containers::{BUNDLE_VOLUME, TOKEN_VOLUME};
use super::{containers, init_containers};

/// Ports that belong to the proxy in every pod: those that it listens on, and the one kept for HBONE.
const OURS: [u16; 6] = [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, HBONE_PORT, METRICS_PORT, HEALTH_PORT];

/// Why a pod cannot be injected, if it cannot.
pub fn reason(pod: &Pod) -> Option<String> {
    let mut all = init_containers(pod).chain(containers(pod));
    all.find_map(|container| container_reason(pod, container)).or_else(|| volume_reason(pod))
}

/// Why a pod that has our containers already cannot stay as it is, if it cannot.
pub fn weakened(pod: &Pod) -> Option<String> {
    let mut others =
        init_containers(pod).chain(containers(pod)).filter(|container| !is_named_as_ours(container));
    others.find_map(|container| weakness(pod, container))
}

fn container_reason(pod: &Pod, container: &Container) -> Option<String> {
    if is_named_as_ours(container) {
        let name = &container.name;
        return Some(format!("the container name {name} is reserved: give the container another one"));
    }
    weakness(pod, container)
}

fn is_named_as_ours(container: &Container) -> bool {
    [INIT_CONTAINER, PROXY_CONTAINER].contains(&container.name.as_str())
}

/// What of an application's container goes past the proxy, or takes what is the proxy's.
fn weakness(pod: &Pod, container: &Container) -> Option<String> {
    let name = &container.name;
    if user(pod, container) == Some(i64::from(PROXY_UID)) {
        return Some(format!(
            "container {name} runs as user {PROXY_UID}, whose traffic bypasses the mesh: choose another runAsUser"
        ));
    }
    let mounts = container.volume_mounts.iter().flatten();
    if let Some(mount) = mounts.into_iter().find(|mount| is_ours(&mount.name)) {
        return Some(format!(
            "container {name} mounts the volume {}, which is the proxy's alone: take the mount out",
            mount.name
        ));
    }
    let ports = container.ports.iter().flatten().map(|port| port.container_port);
    let taken = ports.into_iter().find(|port| OURS.iter().any(|ours| i32::from(*ours) == *port))?;
    Some(format!("container {name} declares port {taken}, which belongs to the proxy: choose another port"))
}

/// The container's own user wins over the pod's.
fn user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user)
}

fn volume_reason(pod: &Pod) -> Option<String> {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let taken = volumes.find(|volume| is_ours(&volume.name))?;
    Some(format!("the volume name {} is reserved: give the volume another one", taken.name))
}

fn is_ours(volume: &str) -> bool {
    [TOKEN_VOLUME, BUNDLE_VOLUME].contains(&volume)
}
