//! What the admin port shows of a Service in use.

use std::{net::IpAddr, sync::Arc};

use mesh::{
    names::ServiceName,
    route::{BackendKey, RouteKind},
};
use serde_json::{Value, json};

use super::live::LiveService;
use crate::upstream::Backend;

/// A Service with its ports, their routes and backends.
pub fn service(name: &ServiceName, live: &LiveService, addresses: &[IpAddr]) -> Value {
    let table = live.table();
    let backend = |key: &BackendKey, backend: &Arc<Backend>| json!({ "service": key.service.to_string(), "port": key.port, "endpoints": backend.to_json() });
    let ports = table.routes.ports.iter().map(|(number, port)| {
        let used = port.backends();
        let all = table.routes.backends.iter().zip(&table.backends).enumerate();
        let backends: Vec<_> =
            all.filter(|(i, _)| used.contains(i)).map(|(_, (k, b))| backend(k, b)).collect();
        json!({
            "port": number,
            "governing": port.governing.kind().map_or("default", RouteKind::as_str),
            "routes": port.governing.routes().iter().map(|r| r.name.to_string()).collect::<Vec<_>>(),
            "backends": backends,
        })
    });
    json!({
        "namespace": &*name.namespace,
        "name": &*name.name,
        "addresses": addresses,
        "ports": ports.collect::<Vec<_>>(),
    })
}
