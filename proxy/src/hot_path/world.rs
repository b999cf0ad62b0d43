//! A proxy for tests, with a Service that has routes and a server.

use std::{net::SocketAddr, sync::Arc};

use clap::Parser as _;
use k8s_openapi::api::core::v1::Service;
use mesh::{
    names::ServiceName,
    resolve::{View, service_table},
    route::{AppProtocol, Route, RouteKind},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    config::Config,
    control::ControlPlane,
    discovery::{Discovery, LiveService, Table},
    drain::{self, Drain},
    metrics::Metrics,
    proxy::Proxy,
    upstream::{Backend, Registry},
};

/// A proxy, and whoever decides that it ends.
pub struct World {
    /// As the injector sets it up.
    pub proxy: Arc<Proxy>,
    _drain: Drain,
}

/// What is known of the Service.
struct Objects {
    service: Service,
    route: Route,
}

impl World {
    /// A proxy that has nobody to ask.
    pub fn new() -> Self {
        let config = ["heddle-proxy", "--pod-name", "web-0", "--pod-namespace", "shop"];
        let config = Arc::new(Config::try_parse_from(config).expect("valid arguments"));
        let (metrics, (_, credentials)) = (Arc::new(Metrics::new()), watch::channel(None));
        let control = Arc::new(ControlPlane::new(&config).expect("an address"));
        let registry =
            Arc::new(Registry::new(Arc::clone(&config), credentials.clone(), Arc::clone(&metrics)));
        let discovery = Discovery::start(Arc::clone(&config), &control, Arc::clone(&registry));
        let (drain, draining) = drain::channel();
        let proxy = Proxy::new(config, discovery, registry, credentials, metrics, draining);
        Self { proxy, _drain: drain }
    }

    /// The Service `shop/web`: a route of three rules, whose second takes what is under `/api` and splits it in two. All of it
    /// goes to the server, which speaks what is declared.
    pub fn service(&self, server: SocketAddr, declared: AppProtocol) -> Arc<LiveService> {
        let objects = Objects::new();
        let routes = service_table(&objects.service, "shop", &objects);
        let endpoint = self.proxy.registry.endpoint(server, None);
        let backends = routes.backends.iter().map(|key| {
            let backend = Backend::new(key.clone());
            backend.set_endpoints(vec![Arc::clone(&endpoint)]);
            Arc::new(backend)
        });
        let (backends, declared) = (backends.collect(), vec![Some(declared); routes.backends.len()]);
        Arc::new(LiveService::new(Table { routes, backends, declared }))
    }
}

impl Objects {
    fn new() -> Self {
        let service = json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 81}]}});
        let to = |port: u16, weight: u32| json!({"name": "web", "port": port, "weight": weight});
        let rules = json!([
            {"matches": [{"path": {"type": "Exact", "value": "/api"}}], "backendRefs": [to(80, 1)]},
            {"matches": [{"path": {"value": "/api"}}], "backendRefs": [to(80, 90), to(81, 10)]},
            {"backendRefs": [to(80, 1)]},
        ]);
        let route = json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}], "rules": rules}});
        Self { service: read(service), route: Route::from_json(RouteKind::Http, &route).expect("a route") }
    }
}

fn read(object: Value) -> Service {
    serde_json::from_value(object).expect("an object")
}

impl View for Objects {
    fn service(&self, _: &ServiceName) -> Option<&Service> {
        Some(&self.service)
    }

    fn routes_bound_to<'a>(&'a self, _: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        Box::new([&self.route].into_iter())
    }
}
