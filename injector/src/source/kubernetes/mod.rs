//! A Kubernetes API server as the source: every kind is followed by a task of its own, and the index takes what they
//! find, as batches. The first batch is everything: nothing is judged, or served, by half of a cluster.

mod definitions;
mod follow;
mod item;
mod served;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::core::ApiResource;
use kube::{Client, Error};
use mesh::contract::BUNDLE_CONFIG_MAP;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use definitions::follow_definitions;
pub use follow::WATCH_SECONDS;
use follow::{Followed, follow};
use served::{Kinds, kinds};
pub use served::{has, is_absent, resource};

use super::{Change, seconds};
use crate::index::Index;
use crate::object::{Key, Kind};

/// How often the API server is asked whether a kind came or went, though nothing says so.
const LOOK: Duration = Duration::from_secs(10);
/// Waiting after a question that failed, and for a kind that is about to come.
const RETRY: Duration = Duration::from_secs(1);
/// A question that takes longer is given up: an API server that hangs must not hold up what would be asked next.
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches on their way to the index: what waits there holds its watch back, and not memory.
const WAITING: usize = 64;

/// What the followers tell.
#[derive(Debug)]
pub enum News {
    /// Objects that came, changed or went.
    Changed(Vec<Change>),
    /// All objects of a kind: those in `present` are there, all others went.
    Listed {
        /// The kind.
        kind: Kind,
        /// The names of all.
        present: HashSet<Key>,
        /// Those that can be read.
        changes: Vec<Change>,
    },
    /// The optional kinds that are there (once it is known).
    Served(BTreeSet<Kind>),
    /// A kind that is no longer served.
    Gone(Kind),
}

/// The answer to a question to the API server, if it comes in time. Watches and long lists are no such questions.
pub async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Service(format!("no answer within {PATIENCE:?}").into())),
    }
}

/// Follows the cluster into `index`; `ready` is told when everything that there is has been taken in.
pub fn start(client: &Client, index: Arc<Index>, ready: oneshot::Sender<()>) {
    let (news, taken) = channel(WAITING);
    for followed in always() {
        tokio::spawn(follow(client.clone(), followed, news.clone()));
    }
    tokio::spawn(follow_optional(client.clone(), news));
    tokio::spawn(take(index, taken, ready));
}

/// The kinds that every cluster has.
fn always() -> impl Iterator<Item = Followed> {
    let plain = |kind: Kind| Followed { kind, resource: resource(kind, "v1"), name: None };
    // No other ConfigMap is read.
    let bundles = Followed { name: Some(BUNDLE_CONFIG_MAP), ..plain(Kind::ConfigMap) };
    [Kind::Namespace, Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::Pod]
        .map(plain)
        .into_iter()
        .chain([bundles])
}

/// Follows the kinds that may come and go.
async fn follow_optional(client: Client, news: Sender<News>) {
    let mut followers: BTreeMap<Kind, (ApiResource, AbortHandle)> = BTreeMap::new();
    let mut told = false;
    let changed = Arc::new(Notify::new());
    tokio::spawn(follow_definitions(client.clone(), Arc::clone(&changed)));
    loop {
        let kinds = match kinds(&client).await {
            Ok(kinds) => kinds,
            Err(error) => {
                tracing::warn!("cannot ask which kinds the API server has: {error}");
                sleep(RETRY).await;
                continue;
            }
        };
        for kind in &kinds.awaited {
            tracing::warn!(
                kind = kind.as_str(),
                "not served, though its definition is there: waiting for it"
            );
        }
        // Its objects may be there, too: without them nothing begins.
        if !told && !kinds.awaited.is_empty() {
            sleep(RETRY).await;
            continue;
        }
        let followed = followers.iter().map(|(kind, (resource, _))| (*kind, resource));
        for kind in outdated(followed, &kinds) {
            if let Some((_, follower)) = followers.remove(&kind) {
                follower.abort();
            }
            if kinds.is_gone(kind) {
                tracing::warn!(kind = kind.as_str(), "gone from the API server, with its definition");
                let _ = news.send(News::Gone(kind)).await;
            }
        }
        if !told {
            let _ = news.send(News::Served(kinds.served.keys().copied().collect())).await;
            told = true;
        }
        let pause = if kinds.awaited.is_empty() { LOOK } else { RETRY };
        for (kind, resource) in kinds.served {
            followers.entry(kind).or_insert_with(|| {
                tracing::info!(kind = kind.as_str(), version = resource.version, "followed");
                let followed = Followed { kind, resource: resource.clone(), name: None };
                (resource, tokio::spawn(follow(client.clone(), followed, news.clone())).abort_handle())
            });
        }
        let _ = timeout(pause, changed.notified()).await;
    }
}

/// The kinds whose follower is to end: those that are gone, and those that are served under another version. A follower
/// whose kind is missing for a moment stays, and with it what it told.
fn outdated<'f>(followed: impl Iterator<Item = (Kind, &'f ApiResource)>, kinds: &Kinds) -> Vec<Kind> {
    let outdated = followed.filter(|(kind, resource)| match kinds.served.get(kind) {
        Some(served) => served != *resource,
        None => kinds.is_gone(*kind),
    });
    outdated.map(|(kind, _)| kind).collect()
}

async fn take(index: Arc<Index>, mut news: Receiver<News>, ready: oneshot::Sender<()>) {
    let mut beginning = Beginning::new();
    let mut ready = Some(ready);
    let mut batch = Vec::new();
    while news.recv_many(&mut batch, WAITING).await > 0 {
        let mut changes = Vec::new();
        for news in batch.drain(..) {
            beginning.note(&news);
            let gone = gone(&news, &index, &changes);
            changes.extend(gone.into_iter().map(|key| (key, None)));
            changes.extend(brought(news));
        }
        let Some(changes) = beginning.release(changes) else { continue };
        index.apply(changes, &seconds(Timestamp::now()));
        if let Some(ready) = ready.take() {
            let _ = ready.send(());
        }
    }
}

fn brought(news: News) -> Vec<Change> {
    match news {
        News::Changed(changes) | News::Listed { changes, .. } => changes,
        News::Served(_) | News::Gone(_) => Vec::new(),
    }
}

/// The objects that were known, or are among the `changes` that come before, and that a list does not hold.
fn gone(news: &News, index: &Index, changes: &[Change]) -> BTreeSet<Key> {
    let (kind, present) = match news {
        News::Listed { kind, present, .. } => (*kind, Some(present)),
        News::Gone(kind) => (*kind, None),
        News::Changed(_) | News::Served(_) => return BTreeSet::new(),
    };
    let state = index.read();
    let known = state.all(kind).map(|entry| &entry.key);
    let coming = changes.iter().map(|(key, _)| key).filter(|key| key.kind == kind);
    let absent = known.chain(coming).filter(|key| present.is_none_or(|present| !present.contains(*key)));
    absent.cloned().collect()
}

/// Holds everything back until all kinds are listed.
struct Beginning {
    /// The kinds that are still to be listed.
    missing: BTreeSet<Kind>,
    /// Whether the optional kinds among them are known.
    told: bool,
    held: Vec<Change>,
    over: bool,
}

impl Beginning {
    fn new() -> Self {
        let missing = always().map(|followed| followed.kind).collect();
        Self { missing, told: false, held: Vec::new(), over: false }
    }

    fn note(&mut self, news: &News) {
        match news {
            News::Listed { kind, .. } | News::Gone(kind) => {
                self.missing.remove(kind);
                self.held.retain(|(key, _)| key.kind != *kind); // of a list before
            }
            News::Served(kinds) => {
                self.missing.extend(kinds);
                self.told = true;
            }
            News::Changed(_) => {}
        }
    }

    /// What is to be taken in now.
    fn release(&mut self, changes: Vec<Change>) -> Option<Vec<Change>> {
        if self.over {
            return Some(changes);
        }
        self.held.extend(changes);
        self.over = self.told && self.missing.is_empty();
        self.over.then(|| std::mem::take(&mut self.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{index, service};
    use crate::source::appeared;
    use mesh::route::RouteKind;

    fn listed(kind: Kind) -> News {
        News::Listed { kind, present: HashSet::new(), changes: Vec::new() }
    }

    fn change() -> Vec<Change> {
        vec![(Key::new(Kind::Service, "shop", "web"), None)]
    }

    #[test]
    fn nothing_is_taken_in_before_all_kinds_are_listed() {
        let mut beginning = Beginning::new();
        for followed in always() {
            beginning.note(&listed(followed.kind));
        }
        assert!(beginning.release(change()).is_none());
        beginning.note(&News::Served(BTreeSet::from([Kind::ServiceCidr])));
        assert!(beginning.release(change()).is_none());
        beginning.note(&listed(Kind::ServiceCidr));
        assert_eq!(beginning.release(change()).map(|all| all.len()), Some(3));
        assert_eq!(beginning.release(change()).map(|all| all.len()), Some(1));
    }

    #[test]
    fn a_kind_that_goes_while_it_is_listed_is_not_waited_for() {
        let mut beginning = Beginning::new();
        beginning.note(&News::Served(BTreeSet::from([Kind::ServiceCidr])));
        for kind in always().map(|followed| followed.kind) {
            beginning.note(&listed(kind));
        }
        beginning.note(&News::Gone(Kind::ServiceCidr));
        assert!(beginning.release(Vec::new()).is_some());
    }

    #[test]
    fn a_list_replaces_the_one_before_it_that_was_not_taken_in() {
        let mut beginning = Beginning::new();
        assert!(beginning.release(change()).is_none());
        beginning.note(&listed(Kind::Service));
        assert!(beginning.held.is_empty());
    }

    #[test]
    fn what_a_list_does_not_hold_is_gone_known_or_on_its_way() {
        let index = index(100, &service("known", "10.96.0.5"));
        let coming = appeared(&service("coming", "10.96.0.6"));
        let names = |news: News| -> Vec<String> {
            gone(&news, &index, &coming).iter().map(|key| key.name.name.to_string()).collect()
        };
        assert_eq!(names(listed(Kind::Service)), ["coming", "known"]);
        assert_eq!(names(listed(Kind::Pod)), Vec::<String>::new());
        assert_eq!(names(News::Gone(Kind::Service)), ["coming", "known"]);
        let present = HashSet::from([Key::new(Kind::Service, "shop", "known")]);
        assert_eq!(names(News::Listed { kind: Kind::Service, present, changes: Vec::new() }), ["coming"]);
    }

    #[test]
    fn only_a_kind_that_is_gone_or_has_another_version_is_given_up() {
        let [http, tcp, tls] = [RouteKind::Http, RouteKind::Tcp, RouteKind::Tls].map(Kind::Route);
        let all = [http, tcp, tls, Kind::ServiceCidr].map(|kind| (kind, resource(kind, "v1")));
        let given_up = |kinds: &Kinds| outdated(all.iter().map(|(kind, resource)| (*kind, resource)), kinds);
        // An API server that has just begun.
        let beginning = Kinds { awaited: BTreeSet::from([http, tcp, tls]), ..Kinds::default() };
        assert!(given_up(&beginning).is_empty());
        let served = BTreeMap::from([(http, resource(http, "v1")), (tcp, resource(tcp, "v1beta1"))]);
        assert_eq!(given_up(&Kinds { served, ..Kinds::default() }), [tcp, tls]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_given_up() {
        let error = in_time(std::future::pending::<Result<(), Error>>()).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 10s"), "{error}");
    }
}
