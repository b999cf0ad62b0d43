//! Asking the control plane what is at an address.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, api::ListParams};
use mesh::names::{ObjectName, ServiceName};
use tokio::time::timeout;

/// What a lookup by address came to.
pub enum Found {
    /// A Service.
    Service(ServiceName),
    /// A pod.
    Pod,
    /// Nothing of the cluster.
    Nothing,
    /// No answer, and why.
    Error(String),
}

/// Asks, for at most `limit`.
pub async fn look_up(client: Client, ip: IpAddr, limit: Duration) -> Found {
    match timeout(limit, ask(client, ip)).await {
        Ok(found) => found.unwrap_or_else(|error| Found::Error(error.to_string())),
        Err(_) => Found::Error("no answer in time".into()),
    }
}

async fn ask(client: Client, ip: IpAddr) -> Result<Found, kube::Error> {
    let services: Api<Service> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client);
    let (by_cluster_ip, by_pod_ip) = (format!("spec.clusterIPs={ip}"), format!("status.podIPs={ip}"));
    let (service, pod) =
        (ListParams::default().fields(&by_cluster_ip), ListParams::default().fields(&by_pod_ip));
    let (services, pods) = tokio::try_join!(services.list(&service), pods.list(&pod))?;
    Ok(match (services.items.first(), pods.items.is_empty()) {
        (Some(service), _) => Found::Service(ObjectName::new(
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        )),
        (None, false) => Found::Pod,
        (None, true) => Found::Nothing,
    })
}
