use super::*;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use futures::StreamExt;
use futures::future::join_all;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::discovery::follower::tests::{POD_AT_ADDRESS, PODS_OF_WEB, SERVICES, SLICES_OF_WEB, shown};
use crate::discovery::{Mode, Open};
use crate::index::tests::{index, pod, put, service, slice};
use crate::metrics::Metrics;

const WEB: &str =
    "/api/v1/namespaces/shop/services?fieldSelector=metadata.name=web&watch=1&allowWatchBookmarks=1";

type Events = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

fn open() -> Open {
    Open::new(Arc::new(Metrics::new()))
}

fn events(index: &Arc<Index>, open: &Open, target: &str) -> Events {
    let (path, parameters) = target.split_once('?').unwrap();
    let query = Query::parse(path, parameters).unwrap();
    let Mode::Watch(options) = query.mode.clone() else { panic!("{target}") };
    Box::pin(watch(Arc::clone(index), query, &options, open.watch("a").unwrap()))
}

/// A reader whose task counts how often it is woken.
struct Reader {
    events: Events,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Reader {
    fn new(index: &Arc<Index>, open: &Open, target: &str) -> Self {
        Self { events: events(index, open, target), woken: Arc::default() }
    }

    fn poll(&mut self) -> Poll<Option<Bytes>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.events.as_mut().poll_next(&mut Context::from_waker(&waker))
    }

    /// What there is to read now.
    fn read(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        while let Poll::Ready(Some(piece)) = self.poll() {
            seen.extend(shown(&piece));
        }
        seen
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

fn woken(readers: &[Reader]) -> usize {
    readers.iter().map(Reader::woken).sum()
}

/// A clock that stands still: what is woken is woken by changes.
fn clock() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// How often a watch of `target` is woken by a change, where `web` has the second of two pods.
#[track_caller]
fn check(target: &str, change: &str, woken: usize) {
    let clock = clock();
    let _entered = clock.enter();
    let pods = pod("web-0", "10.1.0.3") + &pod("web-1", "10.1.0.4");
    let all = service("web", "10.96.0.5") + &pods + &slice("web", "10.1.0.4");
    let (index, open) = (Arc::new(index(100, &all)), open());
    let mut reader = Reader::new(&index, &open, target);
    reader.read();
    put(&index, change);
    assert_eq!(reader.woken(), woken, "{target}: {change}");
    assert_eq!(!reader.read().is_empty(), woken > 0, "{target}: {change}");
    assert_eq!(reader.woken(), woken, "{target}: {change}");
}

#[test]
fn a_change_wakes_those_alone_whom_it_concerns_and_each_once() {
    let clock = clock();
    let _entered = clock.enter();
    let names: Vec<String> = (0..1000).map(|number| format!("web-{number}")).collect();
    let all: String = names.iter().map(|name| service(name, "None")).collect();
    let (index, open) = (Arc::new(index(10_000, &all)), open());
    let target =
        |name: &str| format!("/api/v1/namespaces/shop/services?fieldSelector=metadata.name={name}&watch=1");
    let mut readers: Vec<Reader> =
        names.iter().map(|name| Reader::new(&index, &open, &target(name))).collect();
    for (reader, name) in readers.iter_mut().zip(&names) {
        assert_eq!(reader.read(), [format!("ADDED {name}")]);
    }
    for (round, number) in [7, 7, 500].into_iter().enumerate() {
        put(&index, &service(&names[number], &format!("10.96.0.{round}")));
        assert_eq!(woken(&readers), round + 1);
        assert_eq!(readers[number].read(), [format!("MODIFIED {}", names[number])]);
        assert_eq!(woken(&readers), round + 1);
    }
}

#[test]
fn all_whom_a_change_concerns_are_woken() {
    let clock = clock();
    let _entered = clock.enter();
    let (index, open) = (Arc::new(index(100, &service("web", "10.96.0.5"))), open());
    let mut readers: Vec<Reader> = (0..1000).map(|_| Reader::new(&index, &open, WEB)).collect();
    for reader in &mut readers {
        reader.read();
    }
    put(&index, &service("web", "10.96.0.6"));
    assert!(readers.iter().all(|reader| reader.woken() == 1));
    assert!(readers.iter_mut().all(|reader| reader.read() == ["MODIFIED web"]));
}

#[test]
fn a_services_pods_wake_who_asked_for_them() {
    check(PODS_OF_WEB, &pod("web-1", "10.1.0.4").replace("Running", "Pending"), 1);
    check(PODS_OF_WEB, &pod("web-1", "10.1.0.5"), 1);
    check(PODS_OF_WEB, &pod("web-2", "10.1.0.4"), 1);
    check(PODS_OF_WEB, &pod("web-0", "10.1.0.3").replace("Running", "Pending"), 0);
    check(PODS_OF_WEB, &slice("web", "10.1.0.3"), 1);
    check(PODS_OF_WEB, &slice("api", "10.1.0.4"), 0);
    check(PODS_OF_WEB, &service("web", "10.96.0.6"), 0);
}

#[test]
fn objects_that_are_found_by_an_address_or_a_label_wake_who_asked_for_them() {
    check(POD_AT_ADDRESS, &pod("web-1", "10.1.0.5"), 1);
    check(POD_AT_ADDRESS, &pod("web-2", "10.1.0.4"), 1);
    check(POD_AT_ADDRESS, &pod("web-0", "10.1.0.5"), 0);
    check(SLICES_OF_WEB, &slice("web", "10.1.0.3"), 1);
    check(SLICES_OF_WEB, &slice("api", "10.1.0.3"), 0);
    check(SERVICES, &service("api", "10.96.0.6"), 1);
    check(SERVICES, &service("api", "10.96.0.6").replace("shop", "other"), 0);
    check(SERVICES, &pod("web-2", "10.1.0.5"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_concern_a_watcher_never_makes_it_list_anew() {
    let index = Arc::new(index(4, &service("web", "10.96.0.5")));
    let mut events = events(&index, &open(), WEB);
    assert_eq!(shown(&events.next().await.unwrap()), ["ADDED web"]);
    let change_others =
        |ip: &str| (0..100).for_each(|number| put(&index, &service(&format!("api-{number}"), ip)));
    change_others("10.96.0.6");
    let bookmark: Value = serde_json::from_slice(&events.next().await.unwrap()).unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], index.read().version().to_string());
    change_others("10.96.0.7");
    put(&index, &service("web", "10.96.0.8"));
    assert_eq!(shown(&events.next().await.unwrap()), ["MODIFIED web"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_in_time_whether_its_pod_reads_it_or_not() {
    let (index, open) = (Arc::new(index(100, &service("web", "10.96.0.5"))), open());
    let mut watched = events(&index, &open, &format!("{SERVICES}&timeoutSeconds=5"));
    assert!(watched.next().await.is_some() && watched.next().await.is_none());
    let mut unread = Vec::new();
    let share = open.watch("a").unwrap();
    while let Some(Some(room)) = futures::FutureExt::now_or_never(share.room()) {
        unread.push(room);
    }
    let mut waiting = events(&index, &open, &format!("{SERVICES}&timeoutSeconds=5"));
    assert!(waiting.next().await.is_none());
}

#[test]
fn bookmarks_of_watches_that_open_together_come_apart() {
    let mut seconds = [0; 30];
    for number in 0..u64::from(BOOKMARK_PLACES) {
        let millis = first_bookmark(number).as_millis();
        seconds[usize::try_from((millis - 1) / 1_000).unwrap()] += 1;
    }
    assert_eq!(seconds, [100; 30]);
}

#[test]
fn for_a_pod_that_takes_nothing_no_more_is_made_than_its_share() {
    let clock = clock();
    let _entered = clock.enter();
    let all: String = (0..1000).map(|number| service(&format!("web-{number}"), "10.96.0.5")).collect();
    let (index, open) = (Arc::new(index(10_000, &all)), open());
    let mut readers: Vec<Reader> = (0..100).map(|_| Reader::new(&index, &open, SERVICES)).collect();
    let pieces = readers.iter_mut().filter_map(|reader| match reader.poll() {
        Poll::Ready(piece) => piece,
        Poll::Pending => None,
    });
    let mut pieces: Vec<Bytes> = pieces.collect();
    assert_eq!((pieces.len(), woken(&readers)), (16, 0));
    pieces.pop();
    assert_eq!(woken(&readers), 1);
    let next = readers.iter_mut().find(|reader| reader.woken() == 1).unwrap();
    assert!(matches!(next.poll(), Poll::Ready(Some(_))));
}

#[tokio::test]
async fn a_change_from_another_thread_is_never_missed() {
    let (index, last) = (Arc::new(index(10_000, "")), "10.96.1.249");
    let changed = Arc::clone(&index);
    let writer = thread::spawn(move || {
        for number in 0..500 {
            put(&changed, &service("web", &format!("10.96.{}.{}", number / 250, number % 250)));
        }
    });
    let follow = |turns: usize| {
        let index = Arc::clone(&index);
        async move {
            for _ in 0..turns {
                yield_now().await;
            }
            let mut events = events(&index, &open(), SERVICES);
            while let Some(piece) = events.next().await {
                if String::from_utf8_lossy(&piece).contains(last) {
                    return;
                }
            }
        }
    };
    let all = join_all((0..50).map(|number| follow(number * 100)));
    timeout(Duration::from_secs(20), all).await.expect("a change was missed");
    writer.join().unwrap();
}

/// There are tens of thousands.
#[test]
fn a_watch_takes_little() {
    let clock = clock();
    let _entered = clock.enter();
    let (index, open) = (Arc::new(index(100, "")), open());
    let (path, parameters) = WEB.split_once('?').unwrap();
    let query = Query::parse(path, parameters).unwrap();
    let Mode::Watch(options) = query.mode.clone() else { panic!("{WEB}") };
    let stream = watch(index, query, &options, open.watch("a").unwrap());
    assert!(size_of_val(&stream) + size_of::<Watch>() <= 600);
}
