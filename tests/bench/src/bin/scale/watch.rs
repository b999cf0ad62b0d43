//! One watch of a simulated sidecar: kube's watcher, as in heddle-proxy. It lists, follows, resumes and lists anew by itself.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use mesh::names::ObjectName;
use mesh::route::RouteKind;
use tokio::time::sleep;

/// The kinds whose routes can govern a Service.
const KINDS: [RouteKind; 4] = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp];
/// The pause after an error.
const RETRY: Duration = Duration::from_millis(100);

/// What a watch covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchKey {
    /// Which objects.
    pub part: Part,
    /// The Service (or the pod) that they are of; of routes, only the namespace counts.
    pub of: ObjectName,
}

/// Which objects a watch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// One pod: heddle-proxy follows its own to know when it ends.
    OwnPod,
    /// A Service.
    Service,
    /// Its EndpointSlices.
    Slices,
    /// The pods at the addresses of its endpoints.
    Pods,
    /// The routes of one kind in its namespace.
    Routes(RouteKind),
}

impl WatchKey {
    /// The watches of one Service.
    pub fn of_service(service: &ObjectName) -> [Self; 3] {
        [Part::Service, Part::Slices, Part::Pods].map(|part| Self { part, of: service.clone() })
    }

    /// The watches of the routes of one namespace.
    pub fn routes(namespace: &str) -> BTreeSet<Self> {
        let of = ObjectName::new(namespace, "");
        KINDS.into_iter().map(|kind| Self { part: Part::Routes(kind), of: of.clone() }).collect()
    }

    /// The watch of a sidecar's own pod.
    pub fn own_pod(namespace: &str, name: &str) -> Self {
        Self { part: Part::OwnPod, of: ObjectName::new(namespace, name) }
    }

    /// Where its objects are, and which of those there it covers.
    fn api(&self, client: Client) -> (Api<DynamicObject>, watcher::Config) {
        let (namespace, name) = (&*self.of.namespace, &self.of.name);
        let namespaced = |resource: &ApiResource, client| Api::namespaced_with(client, namespace, resource);
        let all = watcher::Config::default();
        match self.part {
            Part::OwnPod => {
                let this = all.fields(&format!("metadata.name={name}"));
                (namespaced(&ApiResource::erase::<Pod>(&()), client), this)
            }
            Part::Service => {
                let this = all.fields(&format!("metadata.name={name}"));
                (namespaced(&ApiResource::erase::<Service>(&()), client), this)
            }
            Part::Slices => {
                let of_service = all.labels(&format!("kubernetes.io/service-name={name}"));
                (namespaced(&ApiResource::erase::<EndpointSlice>(&()), client), of_service)
            }
            Part::Pods => {
                let of_service = all.fields(&format!("heddle.dev/service={}", self.of));
                (Api::all_with(client, &ApiResource::erase::<Pod>(&())), of_service)
            }
            Part::Routes(kind) => (namespaced(&resource(kind), client), all),
        }
    }
}

fn resource(kind: RouteKind) -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".into(),
        version: "v1".into(),
        api_version: "gateway.networking.k8s.io/v1".into(),
        kind: kind.as_str().into(),
        plural: kind.plural().into(),
    }
}

/// Follows what `key` covers for ever, and tells `see` of each event, or of the error that broke it off.
pub async fn follow(
    key: WatchKey,
    client: Client,
    mut see: impl FnMut(&WatchKey, Result<Event<DynamicObject>, watcher::Error>),
) {
    let (api, config) = key.api(client);
    let mut events = pin!(watcher(api, config));
    while let Some(event) = events.next().await {
        let broke_off = event.is_err();
        see(&key, event);
        if broke_off {
            sleep(RETRY).await;
        }
    }
}
