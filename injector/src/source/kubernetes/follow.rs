//! One kind of object, followed: listed by pages, then watched, for ever.
//!
//! The API server may be away for as long as it likes: what was known stays, and the watch goes on where it was. If it cannot
//! go on there, all objects are listed anew, and nobody waits until all of them are taken in.

use std::collections::HashSet;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc::Sender;
use tokio::task::yield_now;

use super::News;
use super::item::Item;
use crate::object::{Key, Kind};
use crate::source::Change;

/// Objects of a page: of the largest kind, pods, about 4 MiB.
const PAGE: u32 = 250;
/// A watch ends after this many seconds and goes on anew: a connection that died silently costs no more than this. The API
/// server gives up the page of a list after the same time.
pub const WATCH_SECONDS: u32 = 45;
/// Objects of a list that are taken in at a time, which takes a few milliseconds if all of them are new.
const AT_ONCE: usize = 256;
/// Waiting between attempts, doubled with each: the mesh should be up to date soon after the API server is back.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// What is followed.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The kind.
    pub kind: Kind,
    /// Under which version it is served.
    pub resource: ApiResource,
    /// The objects' name, if only those of one name concern the mesh.
    pub name: Option<&'static str>,
}

impl Followed {
    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        match self.name {
            Some(name) => config.fields(&format!("metadata.name={name}")),
            None => config,
        }
    }
}

/// Follows a kind into `news` until nobody listens.
pub async fn follow(client: Client, followed: Followed, news: Sender<News>) {
    let api: Api<Item> = Api::all_with(client, &followed.resource);
    let events = watcher(api, followed.config());
    take(events, followed, news).await;
}

async fn take(
    events: impl Stream<Item = Result<Event<Item>, watcher::Error>>,
    followed: Followed,
    news: Sender<News>,
) {
    let mut events = std::pin::pin!(events);
    let mut tracker = Tracker::new(followed);
    let mut delay = FIRST_DELAY;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if is_progress(&event) {
                    delay = FIRST_DELAY;
                }
                if let Some(found) = tracker.take(event)
                    && !tell(found, &news).await
                {
                    return;
                }
            }
            Err(error) => {
                let kind = tracker.followed.kind.as_str();
                tracing::warn!(kind, "cannot follow: {}; what is known stays", reason(&error));
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LONGEST_DELAY);
            }
        }
    }
}

/// Tells what was found; `false` if nobody listens.
///
/// The objects of a list are told a few at a time, and others have their turn in between. Then the list is told as a whole: it
/// alone says what is gone, and counts before everything was listed; of what is known already it costs next to nothing.
async fn tell(found: News, news: &Sender<News>) -> bool {
    if let News::Listed { changes, .. } = &found {
        for few in changes.chunks(AT_ONCE) {
            if news.send(News::Changed(few.to_vec())).await.is_err() {
                return false;
            }
            yield_now().await;
        }
    }
    news.send(found).await.is_ok()
}

/// Whether the API server has served us in full. The watcher says `Init` before it asks, and a list can break off at any
/// page.
fn is_progress<K>(event: &Event<K>) -> bool {
    match event {
        Event::InitDone | Event::Apply(_) | Event::Delete(_) => true,
        Event::Init | Event::InitApply(_) => false,
    }
}

/// The whole chain of causes in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Makes news of events.
struct Tracker {
    followed: Followed,
    /// The names in the list that is on its way.
    present: HashSet<Key>,
    /// Its objects that can be read. Each is read as it comes, since that takes time, and cut down, since they are many.
    listed: Vec<Change>,
}

impl Tracker {
    fn new(followed: Followed) -> Self {
        Self { followed, present: HashSet::new(), listed: Vec::new() }
    }

    fn take(&mut self, event: Event<Item>) -> Option<News> {
        match event {
            Event::Init => (self.present, self.listed) = (HashSet::new(), Vec::new()),
            Event::InitApply(item) => {
                self.present.insert(item.key(self.followed.kind));
                let change = self.change(item);
                self.listed.extend(change);
            }
            Event::InitDone => return Some(self.list()),
            Event::Apply(item) => return self.change(item).map(|change| News::Changed(vec![change])),
            Event::Delete(item) => {
                return Some(News::Changed(vec![(item.key(self.followed.kind), None)]));
            }
        }
        None
    }

    fn list(&mut self) -> News {
        let (present, changes) = (std::mem::take(&mut self.present), std::mem::take(&mut self.listed));
        News::Listed { kind: self.followed.kind, present, changes }
    }

    /// An object that cannot be read costs none of the others.
    fn change(&self, item: Item) -> Option<Change> {
        let change = item.change(self.followed.kind, &self.followed.resource);
        change.inspect_err(|error| tracing::warn!("{error}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    fn item(name: &str) -> Item {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}})).unwrap()
    }

    fn broken(name: &str) -> Item {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": 1})).unwrap()
    }

    fn tracker() -> Tracker {
        let resource = ApiResource::erase::<Service>(&());
        Tracker::new(Followed { kind: Kind::Service, resource, name: None })
    }

    fn list(tracker: &mut Tracker, items: Vec<Item>) -> Option<News> {
        assert!(tracker.take(Event::Init).is_none());
        for item in items {
            assert!(tracker.take(Event::InitApply(item)).is_none());
        }
        tracker.take(Event::InitDone)
    }

    /// The objects that a list holds: those that can be read, and (after a `/`) all.
    #[track_caller]
    fn check(news: Option<News>, expected: &str) {
        let Some(News::Listed { present, changes, .. }) = news else { panic!("no list: {news:?}") };
        let mut all: Vec<String> = present.iter().map(|key| key.name.name.to_string()).collect();
        all.sort();
        let read: Vec<String> = changes.iter().map(|(key, _)| key.name.name.to_string()).collect();
        assert_eq!(format!("{}/{}", read.join(" "), all.join(" ")), expected);
    }

    #[test]
    fn a_list_that_broke_off_counts_for_nothing() {
        let mut tracker = tracker();
        tracker.take(Event::Init);
        tracker.take(Event::InitApply(item("ghost")));
        check(list(&mut tracker, vec![item("a")]), "a/a");
    }

    #[test]
    fn a_broken_object_costs_no_other_and_is_not_gone() {
        check(list(&mut tracker(), vec![item("a"), broken("b"), item("c")]), "a c/a b c");
        assert!(tracker().take(Event::Apply(broken("b"))).is_none());
    }

    #[test]
    fn a_deleted_object_is_gone_whatever_it_looks_like() {
        let Some(News::Changed(changes)) = tracker().take(Event::Delete(broken("b"))) else { panic!() };
        assert!(matches!(changes.as_slice(), [(key, None)] if &*key.name.name == "b"));
    }

    #[tokio::test]
    async fn a_list_is_taken_in_a_few_at_a_time_and_counts_as_a_whole() {
        let items = (0..600).map(|number| Event::InitApply(item(&format!("a-{number}"))));
        let events: Vec<_> = [Event::Init].into_iter().chain(items).chain([Event::InitDone]).collect();
        let (sender, mut taken) = tokio::sync::mpsc::channel(64);
        let events = futures::stream::iter(events.into_iter().map(Ok));
        tokio::spawn(take(events, tracker().followed, sender));
        let (mut turns, mut news) = (Vec::new(), Vec::new());
        while taken.recv_many(&mut news, 64).await > 0 {
            assert_eq!(news.len(), 1, "others have no turn");
            turns.extend(news.drain(..).map(|news| match news {
                News::Changed(changes) => changes.len().to_string(),
                News::Listed { changes, present, .. } => format!("{} of {}", changes.len(), present.len()),
                other @ (News::Served(_) | News::Gone(_)) => panic!("{other:?}"),
            }));
        }
        assert_eq!(turns, ["256", "256", "88", "600 of 600"]);
    }

    #[test]
    fn attempts_to_list_are_no_progress() {
        assert!(![Event::Init, Event::InitApply(item("a"))].iter().any(is_progress));
        assert!([Event::InitDone, Event::Apply(item("a")), Event::Delete(item("a"))].iter().all(is_progress));
    }
}
