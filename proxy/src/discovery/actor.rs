//! The one task that keeps the watches and publishes what follows from them.
//!
//! Each batch of changes is taken in first; then every destination that depends on a changed watch is worked out
//! from scratch. A table is published only when all that it needs has arrived, so that a route never sends
//! traffic to a backend whose endpoints are still on their way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use mesh::{
    endpoints,
    names::ServiceName,
    pod::PodFacts,
    resolve::{self, View},
    route::{AppProtocol, BackendKey, RouteKind},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, interval, sleep},
};
use tracing::{debug, info};

use super::{
    Ask, Destination, Entry, HOLD, Known, QUEUE,
    addresses::Addresses,
    live::{LivePod, LiveService, Table},
    lookup::{Found, look_up},
    show,
    store::Store,
    watch::{self, Change, WatchId, WatchKey},
};
use crate::{
    config::Config,
    metrics,
    upstream::{Backend, Endpoint, Registry},
};

/// A destination that nobody used for this long is dropped.
const UNUSED: Duration = Duration::from_secs(600);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(30);
/// The most destinations kept; past it the least recently used go first.
const DESTINATIONS_MAX: usize = 1024;
/// Of a backend's endpoints that are pods which nobody knows, the most that are asked for one by one: pods on their nodes'
/// networks are never known by address, and a DaemonSet has one for each node.
const UNKNOWN_MAX: usize = 64;
/// How long "there is nothing" is believed.
const NOTHING_FOR: Duration = Duration::from_secs(1);
/// The pause before a failed lookup is tried again while somebody waits for it.
const LOOKUP_RETRY: Duration = Duration::from_millis(200);

/// The kinds whose routes can govern a Service.
const KINDS: [RouteKind; 4] = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp];

pub(super) struct Actor {
    config: Arc<Config>,
    client: Client,
    metrics: metrics::Control,
    registry: Arc<Registry>,
    known: Arc<Known>,
    store: Store,
    services: BTreeMap<ServiceName, ServiceEntry>,
    pods: BTreeMap<IpAddr, PodEntry>,
    backends: HashMap<BackendKey, Arc<Backend>>,
    waiting: HashMap<IpAddr, Vec<oneshot::Sender<Destination>>>,
    changes: mpsc::Sender<(WatchId, Change)>,
    changed: Option<mpsc::Receiver<(WatchId, Change)>>,
    found: mpsc::Sender<(IpAddr, Found)>,
    looked_up: Option<mpsc::Receiver<(IpAddr, Found)>>,
}

/// A Service in use.
#[derive(Default)]
struct ServiceEntry {
    /// What connections hold; none until everything that the table needs has arrived once.
    live: Option<Arc<LiveService>>,
    addresses: Vec<IpAddr>,
    needs: BTreeSet<WatchKey>,
}

struct PodEntry {
    live: Arc<LivePod>,
    key: WatchKey,
}

impl Actor {
    pub(super) fn new(
        config: Arc<Config>,
        client: Client,
        metrics: metrics::Control,
        registry: Arc<Registry>,
        known: Arc<Known>,
    ) -> Self {
        let (changes, changed) = mpsc::channel(QUEUE);
        let (found, looked_up) = mpsc::channel(QUEUE);
        Self {
            config,
            client,
            metrics,
            registry,
            known,
            store: Store::default(),
            services: BTreeMap::new(),
            pods: BTreeMap::new(),
            backends: HashMap::new(),
            waiting: HashMap::new(),
            changes,
            changed: Some(changed),
            found,
            looked_up: Some(looked_up),
        }
    }

    /// Runs until every handle is gone.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let (Some(mut changed), Some(mut looked_up)) = (self.changed.take(), self.looked_up.take()) else {
            return;
        };
        let mut sweep = interval(SWEEP);
        loop {
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(Ask::Find(ip, answer)) => self.find(ip, answer),
                    Some(Ask::Table(answer)) => drop(answer.send(self.table())),
                    None => return,
                },
                Some((ip, found)) = looked_up.recv() => self.take_found(ip, found),
                Some(change) = changed.recv() => self.take_changes(change, &mut changed),
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn find(&mut self, ip: IpAddr, answer: oneshot::Sender<Destination>) {
        if let Some(destination) = self.known.get(ip) {
            return drop(answer.send(destination));
        }
        let waiting = self.waiting.entry(ip).or_default();
        waiting.retain(|answer| !answer.is_closed());
        let first = waiting.is_empty();
        waiting.push(answer);
        if first {
            self.look_up(ip, Duration::ZERO);
        }
    }

    fn look_up(&self, ip: IpAddr, pause: Duration) {
        let (client, found) = (self.client.clone(), self.found.clone());
        let in_cluster = self.config.in_cluster(ip);
        tokio::spawn(async move {
            sleep(pause).await;
            let what = look_up(client, ip, in_cluster, HOLD).await;
            // The receiver is gone only when the program ends.
            let _ = found.send((ip, what)).await;
        });
    }

    fn take_found(&mut self, ip: IpAddr, found: Found) {
        match found {
            Found::Service(name) => {
                self.services.entry(name.clone()).or_default();
                self.refresh_service(&name);
                // The Service may have lost the address since, or another Service may have the better claim to it.
                if self.services.get(&name).is_some_and(|e| e.live.is_some() && !e.addresses.contains(&ip)) {
                    self.answer(ip, &Destination::Elsewhere);
                }
            }
            Found::Pod => {
                let key = WatchKey::PodAt(ip);
                self.open(&key);
                self.pods
                    .entry(ip)
                    .or_insert_with(|| PodEntry { live: Arc::new(LivePod::new(ip, None)), key });
                self.refresh_pod(ip);
            }
            Found::Nothing => {
                self.known
                    .change(|known| drop(known.insert(ip, Entry::Nothing(Instant::now() + NOTHING_FOR))));
                self.answer(ip, &Destination::Elsewhere);
            }
            Found::Error(error) => self.retry_lookup(ip, &error),
        }
    }

    /// Asks again while somebody waits; each waits only so long, by its own clock.
    fn retry_lookup(&mut self, ip: IpAddr, error: &str) {
        debug!(%ip, error, "cannot look an address up");
        let waiting = self.waiting.entry(ip).or_default();
        waiting.retain(|answer| !answer.is_closed());
        if waiting.is_empty() {
            self.waiting.remove(&ip);
        } else {
            self.look_up(ip, LOOKUP_RETRY);
        }
    }

    /// Takes a change and all that have queued behind it, then works out what they touch, once.
    fn take_changes(&mut self, first: (WatchId, Change), more: &mut mpsc::Receiver<(WatchId, Change)>) {
        let mut touched = BTreeSet::new();
        let mut next = Some(first);
        while let Some((id, change)) = next {
            if self.store.take(&id, change) {
                touched.insert(id.key);
            }
            next = more.try_recv().ok();
        }
        let services: Vec<_> = self.services.iter().filter(|(_, e)| !e.needs.is_disjoint(&touched)).collect();
        let services: Vec<_> = services.into_iter().map(|(name, _)| name.clone()).collect();
        services.iter().for_each(|name| self.refresh_service(name));
        let pods: Vec<_> =
            self.pods.iter().filter(|(_, e)| touched.contains(&e.key)).map(|(ip, _)| *ip).collect();
        pods.into_iter().for_each(|ip| self.refresh_pod(ip));
        self.metrics.objects.set(i64::try_from(self.store.count()).unwrap_or(i64::MAX));
    }

    /// Works a Service's table out from scratch, and publishes it if all that it needs is here.
    ///
    /// What it needs shows step by step: routes name backends, backends have endpoints, endpoints are pods. Each step
    /// opens what the last one showed, and waits until that is here.
    fn refresh_service(&mut self, name: &ServiceName) {
        let mut needs = BTreeSet::new();
        let steps = [Self::own_needs, Self::backend_needs, Self::pod_needs];
        let whole = steps.into_iter().all(|step| {
            let more = step(self, name);
            more.iter().for_each(|key| self.open(key));
            needs.extend(more);
            needs.iter().all(|key| self.store.is_synced(key))
        });
        if whole {
            self.publish(name);
        }
        if let Some(entry) = self.services.get_mut(name) {
            entry.needs = needs;
        }
    }

    fn publish(&mut self, name: &ServiceName) {
        let Some(service) = self.store.service(name) else { return self.withdraw(name) };
        let addresses = Addresses::of(service, &self.config);
        let routes = resolve::service_table(service, &self.config.pod_namespace, &self.store);
        let backends = routes.backends.iter().map(|key| self.backend(key)).collect();
        let declared = routes.backends.iter().map(|key| self.declared(key)).collect();
        self.publish_table(name, Table { routes, backends, declared }, addresses);
        self.metrics.published();
    }

    /// The Service, and the routes of producers and of this consumer.
    fn own_needs(&self, name: &ServiceName) -> BTreeSet<WatchKey> {
        let namespaces = BTreeSet::from([name.namespace.to_string(), self.config.pod_namespace.clone()]);
        let routes =
            namespaces.into_iter().flat_map(|ns| KINDS.map(|kind| WatchKey::Routes(kind, ns.clone())));
        routes.chain([WatchKey::Service(name.clone())]).collect()
    }

    /// The Services that the routes name, and the Service itself, as backends.
    fn backend_needs(&self, name: &ServiceName) -> BTreeSet<WatchKey> {
        let named =
            View::routes_bound_to(&self.store, name).flat_map(|route| route.backends().collect::<Vec<_>>());
        let backends: BTreeSet<_> = named.chain([name.clone()]).collect();
        let keys = |backend: ServiceName| {
            [WatchKey::Slices(backend.clone()), WatchKey::PodsOf(backend.clone()), WatchKey::Service(backend)]
        };
        backends.into_iter().flat_map(keys).collect()
    }

    /// Addresses of the cluster whose pod is not known yet: they are asked for one by one, so that a meshed pod
    /// is never dialled in plaintext only because two watches arrived in the wrong order.
    fn pod_needs(&self, name: &ServiceName) -> BTreeSet<WatchKey> {
        let Some(service) = self.store.service(name) else { return BTreeSet::new() };
        let routes = resolve::service_table(service, &self.config.pod_namespace, &self.store);
        let mut needs: BTreeSet<_> = routes.backends.iter().flat_map(|key| self.unknown_pods(key)).collect();
        if routes.backends.iter().any(|key| endpoints::has_hints(&self.endpoints_of(key))) {
            needs.extend(self.here());
        }
        needs
    }

    /// This pod, which knows its node and zone.
    fn here(&self) -> Option<WatchKey> {
        self.config.pod_ips.first().copied().map(WatchKey::PodAt)
    }

    /// The endpoints that are for clients where this pod is.
    fn near(&self, endpoints: Vec<endpoints::Endpoint>) -> Vec<endpoints::Endpoint> {
        let here = self.here();
        let this = here.and_then(|key| self.pod_at(&key));
        let (node, zone) = this.map_or((None, None), |pod| (pod.node.as_deref(), pod.zone.as_deref()));
        endpoints::near(endpoints, node, zone)
    }

    fn unknown_pods(&self, key: &BackendKey) -> Vec<WatchKey> {
        let facts = self.facts_of(&key.service);
        // Not every pod's address lies in the ranges that this proxy knows: nodes are added later.
        let is_pods =
            |endpoint: &endpoints::Endpoint| endpoint.is_pod || self.config.in_cluster(endpoint.addr.ip());
        let pods = self.endpoints_of(key).into_iter().filter(is_pods).map(|endpoint| endpoint.addr.ip());
        pods.filter(|ip| !facts.contains_key(ip)).take(UNKNOWN_MAX).map(WatchKey::PodAt).collect()
    }

    fn endpoints_of(&self, key: &BackendKey) -> Vec<endpoints::Endpoint> {
        let service = self.store.service(&key.service);
        service.map_or_else(Vec::new, |s| endpoints::endpoints(s, key.port, self.store.slices(&key.service)))
    }

    fn facts_of(&self, service: &ServiceName) -> HashMap<IpAddr, &PodFacts> {
        let key = WatchKey::PodsOf(service.clone());
        let mut facts: HashMap<IpAddr, &PodFacts> = HashMap::new();
        for pod in self.store.pods(&key).filter(|pod| !pod.finished) {
            for ip in &pod.ips {
                let of = facts.entry(*ip).or_insert(pod);
                *of = likelier(of, pod);
            }
        }
        facts
    }

    /// The pod at an address.
    fn pod_at(&self, key: &WatchKey) -> Option<&PodFacts> {
        self.store.pods(key).filter(|pod| !pod.finished).reduce(likelier)
    }

    fn declared(&self, key: &BackendKey) -> Option<AppProtocol> {
        resolve::declared_protocol(self.store.service(&key.service)?, key.port)
    }

    /// A backend with its present endpoints; the same object as before, so that running requests stay counted.
    fn backend(&mut self, key: &BackendKey) -> Arc<Backend> {
        let ready = self.near(self.endpoints_of(key));
        let endpoints: Vec<_> = {
            let facts = self.facts_of(&key.service);
            let before = self.backends.get(key);
            ready.iter().map(|endpoint| self.endpoint(endpoint.addr, &facts, before)).collect()
        };
        let backend = self.backends.entry(key.clone()).or_insert_with(|| Arc::new(Backend::new(key.clone())));
        backend.set_endpoints(endpoints);
        Arc::clone(backend)
    }

    /// The endpoint at an address of a Service. One that was meshed and whose pod nobody knows any more (its pod's
    /// watch ran ahead of its slice's) stays meshed: it may not be there, but it is never dialled in plaintext.
    fn endpoint(
        &self,
        addr: SocketAddr,
        facts: &HashMap<IpAddr, &PodFacts>,
        before: Option<&Arc<Backend>>,
    ) -> Arc<Endpoint> {
        let at = WatchKey::PodAt(addr.ip());
        let pod = facts.get(&addr.ip()).copied().or_else(|| self.pod_at(&at));
        let stays = || before?.meshed_endpoint(addr);
        match pod {
            Some(_) => self.registry.endpoint(addr, pod),
            None => stays().unwrap_or_else(|| self.registry.endpoint(addr, None)),
        }
    }

    fn publish_table(&mut self, name: &ServiceName, table: Table, addresses: Addresses) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let live = match &entry.live {
            Some(live) => {
                live.publish(table);
                Arc::clone(live)
            }
            None => {
                info!(service = %name, "routes a service");
                Arc::clone(entry.live.insert(Arc::new(LiveService::new(table))))
            }
        };
        let destination = Destination::Service(live);
        let old = std::mem::take(&mut entry.addresses);
        self.known.change(|known| {
            old.iter().for_each(|ip| drop(known.remove(ip)));
            // A cluster address is its Service's alone. Any other is a claim, which takes nothing from anybody.
            let vacant = |ip: &&IpAddr| !matches!(known.get(*ip), Some(Entry::Found(_)));
            let claimed: Vec<_> = addresses.claimed.iter().filter(vacant).copied().collect();
            entry.addresses = addresses.own.into_iter().chain(claimed).collect();
            known.extend(entry.addresses.iter().map(|ip| (*ip, Entry::Found(destination.clone()))));
        });
        for ip in entry.addresses.clone() {
            self.answer(ip, &destination);
        }
    }

    /// A Service is gone. Who still holds it gets answers that say so; if it comes back, they go on with it.
    fn withdraw(&mut self, name: &ServiceName) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let gone = std::mem::take(&mut entry.addresses);
        match &entry.live {
            Some(live) => live.publish(Table::empty(name)),
            None => drop(self.services.remove(name)),
        }
        self.known.change(|known| gone.iter().for_each(|ip| drop(known.remove(ip))));
        let waiting: Vec<_> = self.waiting.keys().copied().filter(|ip| !self.pods.contains_key(ip)).collect();
        waiting.into_iter().for_each(|ip| self.look_up(ip, LOOKUP_RETRY));
    }

    fn refresh_pod(&mut self, ip: IpAddr) {
        let Some(entry) = self.pods.get(&ip) else { return };
        if !self.store.is_synced(&entry.key) {
            return;
        }
        let facts = self.pod_at(&entry.key).cloned();
        let live = Arc::clone(&entry.live);
        let gone = facts.is_none();
        live.publish(facts);
        if gone {
            self.pods.remove(&ip);
            self.known.change(|known| drop(known.remove(&ip)));
            return self.answer(ip, &Destination::Elsewhere);
        }
        self.known.change(|known| drop(known.insert(ip, Entry::Found(Destination::Pod(Arc::clone(&live))))));
        self.answer(ip, &Destination::Pod(live));
    }

    fn answer(&mut self, ip: IpAddr, destination: &Destination) {
        for waiting in self.waiting.remove(&ip).unwrap_or_default() {
            // Who no longer waits has its own answer.
            let _ = waiting.send(destination.clone());
        }
    }

    fn open(&mut self, key: &WatchKey) {
        let (client, changes) = (&self.client, &self.changes);
        self.store.ensure(key, |id| watch::start(id, client.clone(), changes.clone()));
    }

    /// Drops what nobody uses, the watches behind it, and answers that are out of date.
    fn sweep(&mut self) {
        let mut used: Vec<_> =
            self.services.values().filter_map(|e| Some(e.live.as_ref()?.unused_for())).collect();
        used.extend(self.pods.values().map(|entry| entry.live.unused_for()));
        used.sort_unstable();
        let limit = used.get(DESTINATIONS_MAX).copied().unwrap_or(UNUSED).min(UNUSED);
        let idle = |holders: usize, unused: Duration| holders <= 2 && unused >= limit;
        let mut dropped = Vec::new();
        self.services.retain(|_, entry| {
            let keep = entry
                .live
                .as_ref()
                .is_none_or(|live| !idle(holders(live, entry.addresses.len()), live.unused_for()));
            if !keep {
                dropped.append(&mut entry.addresses);
            }
            keep
        });
        self.pods.retain(|ip, entry| {
            let keep = !idle(Arc::strong_count(&entry.live), entry.live.unused_for());
            if !keep {
                dropped.push(*ip);
            }
            keep
        });
        self.known.change(|known| {
            dropped.iter().for_each(|ip| drop(known.remove(ip)));
            known.retain(|_, entry| !matches!(entry, Entry::Nothing(until) if *until < Instant::now()));
        });
        self.drop_unneeded();
    }

    fn drop_unneeded(&mut self) {
        let mut needed: BTreeSet<_> =
            self.services.values().flat_map(|entry| entry.needs.iter().cloned()).collect();
        needed.extend(self.pods.values().map(|entry| entry.key.clone()));
        self.store.retain(&needed);
        self.backends.retain(|_, backend| Arc::strong_count(backend) > 1);
        self.registry.sweep();
    }

    fn table(&self) -> Value {
        json!({
            "objects": self.store.seen().values().map(|seen| seen.to_json()).collect::<Vec<_>>(),
            "services": self.services.iter().filter_map(|(name, entry)| Some(show::service(name, entry.live.as_deref()?, &entry.addresses))).collect::<Vec<_>>(),
        })
    }
}

/// Holders beside the table of known addresses, which holds a Service once for each.
fn holders(live: &Arc<LiveService>, addresses: usize) -> usize {
    Arc::strong_count(live).saturating_sub(addresses) + 1
}

/// Of two pods at one address, which is somebody else's again a moment after its pod has ended, the one that is more likely
/// there. A meshed one is never passed over for one that is not: nobody is dialled in plaintext by mistake.
fn likelier<'p>(one: &'p PodFacts, other: &'p PodFacts) -> &'p PodFacts {
    let rank = |pod: &PodFacts| (pod.meshed, !pod.terminating);
    if rank(other) > rank(one) { other } else { one }
}
