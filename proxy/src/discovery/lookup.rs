//! Asking the control plane what is at an address.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use mesh::{
    names::{ObjectName, ServiceName},
    pod::ReducedPod,
};
use tokio::time::{Instant, sleep, timeout};

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

/// How long an address of the cluster at which there is nothing is asked for again: its pod may be so new that the
/// control plane hears of it a moment after its peers, and what passes through in that moment passes in plaintext.
const PATIENCE: Duration = Duration::from_millis(400);
/// The pause between two questions.
const AGAIN: Duration = Duration::from_millis(50);

/// Asks, for at most `limit`.
pub async fn look_up(client: Client, ip: IpAddr, in_cluster: bool, limit: Duration) -> Found {
    let patience = if in_cluster { PATIENCE } else { Duration::ZERO };
    match timeout(limit, ask_until_known(client, ip, patience)).await {
        Ok(found) => found.unwrap_or_else(|error| Found::Error(error.to_string())),
        Err(_) => Found::Error("no answer in time".into()),
    }
}

async fn ask_until_known(client: Client, ip: IpAddr, patience: Duration) -> Result<Found, kube::Error> {
    let began = Instant::now();
    loop {
        let found = ask(client.clone(), ip).await?;
        if !matches!(found, Found::Nothing) || began.elapsed() >= patience {
            return Ok(found);
        }
        sleep(AGAIN).await;
    }
}

async fn ask(client: Client, ip: IpAddr) -> Result<Found, kube::Error> {
    let services: Api<Service> = Api::all(client.clone());
    let pods: Api<ReducedPod> = Api::all(client);
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
