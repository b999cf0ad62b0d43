//! One watch: a task that turns Kubernetes' watch protocol into values of the mesh.
//!
//! kube's watcher lists, follows, resumes and lists anew by itself; an error only makes it wait a little. An
//! object that does not decode is reported by name and taken for absent; the others go on.

use std::{fmt::Debug, net::IpAddr, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{ApiResource, DeserializeGuard, DynamicObject},
    runtime::watcher::{self, Event, watcher},
};
use mesh::{
    names::{ObjectName, ServiceName},
    pod::{PodFacts, ReducedPod},
    route::{Route, RouteKind},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
    time::sleep,
};
use tracing::{debug, warn};

/// The first wait after a watch's error; it doubles up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_millis(100);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);

/// What one watch covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WatchKey {
    /// One Service.
    Service(ServiceName),
    /// The EndpointSlices of one Service.
    Slices(ServiceName),
    /// The pods at the addresses of one Service's endpoints.
    PodsOf(ServiceName),
    /// The pod that has an address.
    PodAt(IpAddr),
    /// The routes of one kind in one namespace.
    Routes(RouteKind, String),
}

/// One opening of a watch.
#[derive(Debug, Clone)]
pub struct WatchId {
    /// What it covers.
    pub key: WatchKey,
    /// Counts the watches that were opened.
    pub number: u64,
}

/// An object, reduced to what the mesh makes of it.
#[derive(Debug, Clone)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// A part of a Service's endpoints.
    Slice(Box<EndpointSlice>),
    /// A pod.
    Pod(Box<PodFacts>),
    /// A route of any kind.
    Route(Box<Route>),
}

/// An object as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Kind, as people write it.
    pub kind: &'static str,
    /// Name.
    pub name: ObjectName,
    /// Version, as the control plane counts.
    pub resource_version: String,
    /// Contents; `None` when they could not be read.
    pub object: Option<Object>,
}

/// What a watch tells.
#[derive(Debug)]
pub enum Change {
    /// The whole set begins anew; the old one counts until [`Change::Synced`].
    Restarted,
    /// One object of the new set.
    Initial(Seen),
    /// The new set is whole.
    Synced,
    /// An object is new or has changed.
    Applied(Seen),
    /// An object is gone.
    Deleted(ObjectName),
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a watch whose changes go to `changes`, each with the watch's mark.
pub fn start(id: WatchId, client: Client, changes: mpsc::Sender<(WatchId, Change)>) -> Watch {
    let config = watcher::Config::default;
    let task = match id.key.clone() {
        WatchKey::Service(name) => {
            let this = config().fields(&format!("metadata.name={}", name.name));
            spawn(id, namespaced::<Service>(client, &name), this, changes)
        }
        WatchKey::Slices(name) => {
            let of_service = config().labels(&format!("kubernetes.io/service-name={}", name.name));
            spawn(id, namespaced::<EndpointSlice>(client, &name), of_service, changes)
        }
        WatchKey::PodsOf(name) => {
            let of_service = config().fields(&format!("heddle.dev/service={name}"));
            spawn(id, Guarded::<ReducedPod>::all(client), of_service, changes)
        }
        WatchKey::PodAt(ip) => {
            let at = config().fields(&format!("status.podIPs={ip}"));
            spawn(id, Guarded::<ReducedPod>::all(client), at, changes)
        }
        WatchKey::Routes(kind, namespace) => {
            let routes = Guarded::<DynamicObject>::namespaced_with(client, &namespace, &resource(kind));
            spawn(id, routes, config(), changes)
        }
    };
    Watch(task.abort_handle())
}

type Guarded<K> = Api<DeserializeGuard<K>>;

fn namespaced<K>(client: Client, name: &ServiceName) -> Guarded<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client, &name.namespace)
}

/// A kind of route, of the version that every Gateway API since 1.6 serves. Routes are read as they are written, not
/// through closed types: one with a field of a later version is refused by name, instead of vanishing.
fn resource(kind: RouteKind) -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".into(),
        version: "v1".into(),
        api_version: "gateway.networking.k8s.io/v1".into(),
        kind: kind.as_str().into(),
        plural: kind.plural().into(),
    }
}

fn spawn<K: Watched>(
    id: WatchId,
    api: Guarded<K>,
    config: watcher::Config,
    changes: mpsc::Sender<(WatchId, Change)>,
) -> JoinHandle<()> {
    tokio::spawn(follow(id, api, config, changes))
}

async fn follow<K: Watched>(
    id: WatchId,
    api: Guarded<K>,
    config: watcher::Config,
    changes: mpsc::Sender<(WatchId, Change)>,
) {
    let mut events = pin!(watcher(api, config));
    let mut retry = RETRY_MIN;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if is_progress(&event) {
                    retry = RETRY_MIN;
                }
                if changes.send((id.clone(), change(&id.key, event))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(?id, %error, "a watch broke off");
                sleep(retry.mul_f64(0.5 + fastrand::f64())).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Whether the control plane has served us in full. The watcher says `Init` before it asks, and a list can break off at any
/// page.
pub(super) fn is_progress<K>(event: &Event<K>) -> bool {
    match event {
        Event::InitDone | Event::Apply(_) | Event::Delete(_) => true,
        Event::Init | Event::InitApply(_) => false,
    }
}

fn change<K: Watched>(key: &WatchKey, event: Event<DeserializeGuard<K>>) -> Change {
    match event {
        Event::Init => Change::Restarted,
        Event::InitApply(object) => Change::Initial(seen(key, object)),
        Event::InitDone => Change::Synced,
        Event::Apply(object) => Change::Applied(seen(key, object)),
        Event::Delete(object) => Change::Deleted(object_name(&object)),
    }
}

fn seen<K: Watched>(key: &WatchKey, guard: DeserializeGuard<K>) -> Seen {
    let (kind, name) = (key.kind(), object_name(&guard));
    let resource_version = guard.resource_version().unwrap_or_default();
    let object = guard.0.map_err(|error| error.to_string()).and_then(|object| object.read(key));
    if let Err(error) = &object {
        warn!(kind, %name, error, "an object cannot be read and is taken for absent");
    }
    Seen { kind, name, resource_version, object: object.ok() }
}

fn object_name<K: Watched>(object: &DeserializeGuard<K>) -> ObjectName {
    ObjectName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

impl WatchKey {
    /// The kind of its objects, as people write it.
    fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::Slices(_) => "EndpointSlice",
            Self::PodsOf(_) | Self::PodAt(_) => "Pod",
            Self::Routes(kind, _) => kind.as_str(),
        }
    }
}

/// An object of Kubernetes that the proxy watches.
pub trait Watched: Resource + DeserializeOwned + Clone + Debug + Send + 'static {
    /// What the mesh makes of it, or what is wrong with it.
    fn read(self, key: &WatchKey) -> Result<Object, String>;
}

impl Watched for Service {
    fn read(self, _: &WatchKey) -> Result<Object, String> {
        Ok(Object::Service(Box::new(self)))
    }
}

impl Watched for EndpointSlice {
    fn read(self, _: &WatchKey) -> Result<Object, String> {
        Ok(Object::Slice(Box::new(self)))
    }
}

impl Watched for ReducedPod {
    fn read(self, _: &WatchKey) -> Result<Object, String> {
        let facts = PodFacts::from_reduced(&self).ok_or("it says too little of the pod")?;
        Ok(Object::Pod(Box::new(facts)))
    }
}

impl Watched for DynamicObject {
    fn read(self, key: &WatchKey) -> Result<Object, String> {
        let WatchKey::Routes(kind, _) = key else { return Err("it is no route".into()) };
        let json = serde_json::to_value(&self).map_err(|error| error.to_string())?;
        let route = Route::from_json(*kind, &json).map_err(|error| error.to_string())?;
        Ok(Object::Route(Box::new(route)))
    }
}

impl Seen {
    /// The line of the admin port's table.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "kind": self.kind,
            "namespace": &*self.name.namespace,
            "name": &*self.name.name,
            "resourceVersion": self.resource_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_list_are_no_progress() {
        assert!(![Event::Init, Event::InitApply(())].iter().any(is_progress));
        assert!([Event::InitDone, Event::Apply(()), Event::Delete(())].iter().all(is_progress));
    }
}
