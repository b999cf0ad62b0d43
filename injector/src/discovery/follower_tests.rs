use super::*;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::discovery::event::expired;
use crate::index::tests::{index, pod, put as apply, remove, service, slice};
use crate::index::{Index, Interest, VERSIONS_PER_EPOCH};
use crate::source::appeared;

struct Bed {
    index: Index,
    follower: Follower,
}

impl Bed {
    fn new(log: usize, yaml: &str, target: &str) -> Self {
        Self { index: index(log, yaml), follower: Follower::new(query(target)) }
    }

    #[track_caller]
    fn check_present(&mut self, expected: &[&str]) {
        assert_eq!(shown(&self.present().concat()), expected);
    }

    /// All objects as they are, in pieces.
    fn present(&mut self) -> Vec<Bytes> {
        self.follower.begin(&self.index.read(), false);
        std::iter::from_fn(|| Some(self.follower.piece()).filter(|piece| !piece.is_empty())).collect()
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) {
        let events = self.follower.advance(&self.index.read()).unwrap();
        assert_eq!(shown(&events), expected);
    }
}

#[track_caller]
fn query(target: &str) -> Query {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Query::parse(path, query).unwrap()
}

/// Events in short.
pub fn shown(events: &[u8]) -> Vec<String> {
    let events = serde_json::Deserializer::from_slice(events).into_iter::<Value>().map(Result::unwrap);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.map(|event| text(&event["type"]) + " " + &text(&event["object"]["metadata"]["name"])).collect()
}

pub const SERVICES: &str = "/api/v1/namespaces/shop/services?watch=1";
const BY_ADDRESS: &str = "/api/v1/services?fieldSelector=spec.clusterIPs=10.96.0.5&watch=1";
const AT_ADDRESS: &str = "/api/v1/services?fieldSelector=spec.clusterIPs=10.1.0.4&watch=1";
pub const PODS_OF_WEB: &str = "/api/v1/pods?fieldSelector=heddle.dev/service=shop/web&watch=1";
pub const POD_AT_ADDRESS: &str = "/api/v1/pods?fieldSelector=status.podIPs=10.1.0.4&watch=1";
pub const SLICES_OF_WEB: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io/service-name=web&watch=1";

/// One of each way to select objects.
const TARGETS: [&str; 9] = [
    SERVICES,
    BY_ADDRESS,
    AT_ADDRESS,
    PODS_OF_WEB,
    POD_AT_ADDRESS,
    SLICES_OF_WEB,
    "/api/v1/namespaces/shop/pods?watch=1",
    "/api/v1/namespaces/shop/services?fieldSelector=metadata.name=web&watch=1",
    "/api/v1/services?fieldSelector=spec.clusterIPs=192.0.2.7&watch=1",
];

#[test]
fn a_watcher_sees_what_comes_changes_and_goes() {
    let mut bed = Bed::new(100, &service("web", "10.96.0.5"), SERVICES);
    bed.check_present(&["ADDED web"]);
    bed.check(&[]);
    apply(&bed.index, &(service("web", "10.96.0.6") + &service("api", "10.96.0.7")));
    bed.check(&["ADDED api", "MODIFIED web"]);
    remove(&bed.index, &service("web", "10.96.0.6"));
    bed.check(&["DELETED web"]);
}

#[test]
fn other_kinds_and_namespaces_are_not_its_business() {
    let mut bed = Bed::new(100, "", SERVICES);
    bed.check_present(&[]);
    apply(&bed.index, &pod("web-0", "10.1.0.3"));
    apply(&bed.index, &service("web", "10.96.0.5").replace("shop", "other"));
    bed.check(&[]);
    assert_eq!(bed.follower.place, bed.index.read().version());
}

#[test]
fn an_object_enters_and_leaves_a_selector() {
    let mut bed = Bed::new(100, &service("web", "10.96.0.9"), BY_ADDRESS);
    bed.check_present(&[]);
    apply(&bed.index, &service("web", "10.96.0.5"));
    bed.check(&["ADDED web"]);
    apply(&bed.index, &service("web", "10.96.0.9"));
    bed.check(&["DELETED web"]);
}

#[test]
fn a_pod_takes_an_address_from_a_service_that_only_claims_it() {
    let target = "/api/v1/services?fieldSelector=spec.clusterIPs=192.0.2.7&watch=1";
    let claim = service("thief", "None").replace("spec: {", "spec: {externalIPs: [192.0.2.7], ");
    let mut bed = Bed::new(100, &claim, target);
    bed.check_present(&["ADDED thief"]);
    apply(&bed.index, &pod("web-0", "192.0.2.7"));
    bed.check(&["DELETED thief"]);
    remove(&bed.index, &pod("web-0", "192.0.2.7"));
    bed.check(&["ADDED thief"]);
    apply(&bed.index, &service("web", "192.0.2.7"));
    bed.check(&["DELETED thief", "ADDED web"]);
}

#[test]
fn a_replaced_object_is_another_one() {
    let target = "/api/v1/namespaces/shop/pods?fieldSelector=metadata.name=web-0&watch=1";
    let mut bed = Bed::new(100, &pod("web-0", "10.1.0.3"), target);
    bed.check_present(&["ADDED web-0"]);
    apply(&bed.index, &pod("web-0", "10.1.0.3").replace("uid-", "new-"));
    bed.check(&["DELETED web-0", "ADDED web-0"]);
}

#[test]
fn a_services_pods_follow_its_slices_and_themselves() {
    let pods = pod("web-0", "10.1.0.3") + &pod("web-1", "10.1.0.4");
    let mut bed = Bed::new(100, &(pods + &slice("web", "10.1.0.3")), PODS_OF_WEB);
    bed.check_present(&["ADDED web-0"]);
    apply(&bed.index, &slice("web", "10.1.0.4"));
    bed.check(&["DELETED web-0", "ADDED web-1"]);
    apply(&bed.index, &slice("api", "10.1.0.3"));
    bed.check(&[]);
    apply(&bed.index, &pod("web-1", "10.1.0.4").replace("Running", "Pending"));
    bed.check(&["MODIFIED web-1"]);
    remove(&bed.index, &pod("web-1", "10.1.0.4"));
    bed.check(&["DELETED web-1"]);
}

#[test]
fn a_watch_goes_on_where_another_ended() {
    let mut bed = Bed::new(100, &service("web", "10.96.0.5"), SERVICES);
    let version = bed.index.read().version();
    apply(&bed.index, &service("web", "10.96.0.6"));
    let events = bed.follower.resume(&bed.index.read(), version).unwrap();
    assert_eq!(shown(&events), ["MODIFIED web"]);
}

#[test]
fn a_services_pods_go_on_only_if_nothing_happened_to_them() {
    let all = pod("web-0", "10.1.0.3") + &slice("web", "10.1.0.3");
    let mut bed = Bed::new(100, &all, PODS_OF_WEB);
    let version = bed.index.read().version();
    apply(&bed.index, &service("web", "10.96.0.5"));
    assert!(bed.follower.resume(&bed.index.read(), version).unwrap().is_empty());
    apply(&bed.index, &slice("web", "10.1.0.4"));
    assert_eq!(bed.follower.resume(&bed.index.read(), version), Err(Expired));
}

#[test]
fn a_slow_watcher_is_told_to_list_again() {
    let mut bed = Bed::new(2, &service("web", "10.96.0.5"), SERVICES);
    bed.check_present(&["ADDED web"]);
    for ip in ["10.96.0.6", "10.96.0.7", "10.96.0.8"] {
        apply(&bed.index, &service("web", ip));
    }
    assert_eq!(bed.follower.advance(&bed.index.read()), Err(Expired));
    let event: Value = serde_json::from_slice(&expired()).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&Value::from("ERROR"), &Value::from(410)));
}

#[test]
fn a_version_of_another_epoch_has_expired() {
    let mut bed = Bed::new(100, &service("web", "10.96.0.5"), SERVICES);
    for version in [1, VERSIONS_PER_EPOCH * 2 + 1, VERSIONS_PER_EPOCH + 999] {
        assert_eq!(bed.follower.resume(&bed.index.read(), version), Err(Expired), "{version}");
    }
}

#[test]
fn a_bookmark_tells_the_version_and_the_end_of_the_initial_events() {
    let mut bed = Bed::new(100, &service("web", "10.96.0.5"), SERVICES);
    bed.check_present(&["ADDED web"]);
    let event: Value = serde_json::from_slice(&bed.follower.bookmark(true)).unwrap();
    let metadata = &event["object"]["metadata"];
    assert_eq!(metadata["resourceVersion"], bed.index.read().version().to_string());
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
}

#[test]
fn many_changes_come_in_pieces_and_all_of_them() {
    let mut bed = Bed::new(10_000, "", SERVICES);
    bed.check_present(&[]);
    let names: Vec<String> = (0..1000).map(|number| format!("web-{number:03}")).collect();
    let all: String = names.iter().map(|name| service(name, "10.96.0.5")).collect();
    apply(&bed.index, &all);
    let (mut seen, mut pieces) = (Vec::new(), 0);
    loop {
        let events = bed.follower.advance(&bed.index.read()).unwrap();
        if events.is_empty() {
            break;
        }
        seen.extend(shown(&events));
        pieces += 1;
    }
    assert!(pieces > 1);
    assert_eq!(seen, names.iter().map(|name| format!("ADDED {name}")).collect::<Vec<_>>());
}

#[test]
fn what_is_there_at_the_beginning_comes_in_pieces_and_ends_with_one_bookmark() {
    let names: Vec<String> = (0..1000).map(|number| format!("web-{number:03}")).collect();
    let all: String = names.iter().map(|name| service(name, "10.96.0.5")).collect();
    let mut bed = Bed::new(10_000, &all, SERVICES);
    bed.follower.begin(&bed.index.read(), true);
    apply(&bed.index, &service("later", "10.96.0.6"));
    let (mut seen, mut pieces) = (Vec::new(), Vec::new());
    loop {
        let events = bed.follower.advance(&bed.index.read()).unwrap();
        if events.is_empty() {
            break;
        }
        seen.extend(shown(&events));
        pieces.push(events.len());
    }
    assert!(pieces.len() > 2 && pieces.iter().all(|size| *size < 2 * PIECE), "{pieces:?}");
    let expected = names.iter().map(|name| format!("ADDED {name}"));
    let expected = expected.chain(["BOOKMARK ".to_owned(), "ADDED later".to_owned()]);
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[test]
fn what_was_not_read_yet_is_not_passed_over() {
    let all =
        |ip: &str| -> String { (0..1000).map(|number| service(&format!("web-{number:03}"), ip)).collect() };
    let index = index(10_000, &all("10.96.0.5"));
    let mut pair = Pair::begin(&index, SERVICES);
    let mut told = Vec::new();
    for round in 0.. {
        match round {
            0..3 => apply(&index, &service("later", &format!("10.96.0.{round}"))),
            3 => apply(&index, &all("10.96.0.6")),
            _ => {}
        }
        let state = index.read();
        pair.follower.pass(pair.interest.first(&state), &state);
        let events = pair.follower.advance(&state).unwrap();
        if events.is_empty() && round > 3 {
            break;
        }
        told.extend(shown(&events));
    }
    let count = |kind: &str| told.iter().filter(|event| event.starts_with(kind)).count();
    assert_eq!((count("ADDED web"), count("MODIFIED web"), told.len()), (1000, 1000, 2003));
    assert_eq!(pair.follower.place, index.read().version());
}

/// A change of the world: what is put (or, with `false`, removed).
fn change() -> impl Strategy<Value = (String, bool)> {
    let ip = prop::sample::select(vec!["10.1.0.3", "10.1.0.4", "10.1.0.5", "192.0.2.7"]);
    let name = (0u8..3).prop_map(|number| format!("web-{number}"));
    let phase = prop::sample::select(vec!["Running", "Pending", "Succeeded"]);
    let yaml = prop_oneof![
        (name, ip.clone(), phase).prop_map(|(name, ip, phase)| pod(&name, ip).replace("Running", phase)),
        ip.clone().prop_map(|ip| slice("web", ip)),
        (ip.clone(), ip.clone()).prop_map(|(one, other)| slice("web", &format!("{one}, {other}"))),
        ip.clone().prop_map(|ip| slice("api", ip)),
        ip.clone().prop_map(|ip| service("web", ip)),
        ip.clone().prop_map(
            |ip| service("thief", "None").replace("spec: {", &format!("spec: {{externalIPs: [{ip}], "))
        ),
        (ip, 0u8..2).prop_map(|(ip, zone)| node(ip, zone)),
    ];
    (yaml, proptest::bool::weighted(0.7))
}

/// The node on which all pods are.
fn node(ip: &str, zone: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: z{zone}}}}}\n\
         status: {{addresses: [{{type: InternalIP, address: {ip}}}]}}\n---\n"
    )
}

/// Takes changes in as one.
fn apply_all(index: &Index, changes: &[(String, bool)]) {
    let changes = changes.iter().flat_map(|(yaml, put)| {
        appeared(yaml).into_iter().map(move |(key, object)| (key, object.filter(|_| *put)))
    });
    index.apply(changes.collect(), "2026-01-02T03:04:05Z");
}

/// Everything that a follower has to tell.
fn all(follower: &mut Follower, state: &State) -> Vec<u8> {
    let pieces =
        std::iter::from_fn(|| Some(follower.advance(state).unwrap()).filter(|piece| !piece.is_empty()));
    pieces.flatten().collect()
}

/// A watcher that reads only what it is told of, as a watch does; and what one would tell who looks at everything each time.
struct Pair {
    interest: Interest,
    follower: Follower,
    held: BTreeMap<ObjectName, u64>,
    expected: Vec<String>,
}

impl Pair {
    fn begin(index: &Index, target: &str) -> Self {
        let query = query(target);
        let (interest, follower) = (index.wait_for(query.topics()), Follower::new(query));
        let mut pair = Self { interest, follower, held: BTreeMap::new(), expected: Vec::new() };
        let state = index.read();
        let _ = pair.interest.first(&state);
        pair.follower.begin(&state, false);
        pair.look(&state);
        pair
    }

    fn look(&mut self, state: &State) {
        let entries = select(state, &self.follower.query);
        let now: BTreeMap<ObjectName, u64> =
            entries.iter().map(|entry| (entry.key.name.clone(), entry.version)).collect();
        let names: BTreeSet<&ObjectName> = self.held.keys().chain(now.keys()).collect();
        for name in names {
            let kind = match (self.held.get(name), now.get(name)) {
                (None, _) => "ADDED",
                (_, None) => "DELETED",
                (before, after) if before != after => "MODIFIED",
                _ => continue,
            };
            self.expected.push(format!("{kind} {}", name.name));
        }
        self.held = now;
    }

    /// A version was published: where the log alone decides, each is told of.
    fn published(&mut self, state: &State) {
        if !self.follower.depends_on_others() {
            self.look(state);
        }
    }

    /// Both tell the same; where others decide, in whatever order.
    fn compare(&mut self, state: &State) {
        self.follower.pass(self.interest.first(state), state);
        let mut told = shown(&all(&mut self.follower, state));
        if self.follower.depends_on_others() {
            self.look(state);
            told.sort();
            self.expected.sort();
        }
        assert_eq!(told, std::mem::take(&mut self.expected), "{:?}", self.follower.query);
    }
}

/// Whoever holds `held`, and comes back with `version`, lists anew or holds in the end what a list answers.
fn come_back(target: &str, held: &BTreeMap<String, Value>, version: u64, state: &State) {
    let (mut follower, mut held) = (Follower::new(query(target)), held.clone());
    let Ok(events) = follower.resume(state, version) else { return };
    replay(&mut held, &events);
    replay(&mut held, &all(&mut follower, state));
    assert_eq!(held.into_values().collect::<Vec<_>>(), listed(state, &follower.query), "{target}");
}

fn listed(state: &State, query: &Query) -> Vec<Value> {
    select(state, query).iter().map(|entry| serde_json::from_slice(&entry.body()).unwrap()).collect()
}

/// What a client holds that was told `events`.
fn replay(held: &mut BTreeMap<String, Value>, events: &[u8]) {
    for event in serde_json::Deserializer::from_slice(events).into_iter::<Value>() {
        let event = event.unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
        let before = match event["type"].as_str().unwrap() {
            "DELETED" => held.remove(&name),
            _ => held.insert(name, event["object"].clone()),
        };
        assert_eq!(before.is_some(), event["type"] != "ADDED");
    }
}

proptest! {
    #[test]
    fn whoever_follows_the_events_holds_what_a_list_answers(
        changes in vec((change(), any::<bool>()), 1..30),
        target in prop::sample::select(TARGETS.to_vec()),
    ) {
        let mut bed = Bed::new(1000, "", target);
        let mut held = BTreeMap::new();
        replay(&mut held, &bed.present().concat());
        for ((yaml, put), read) in changes {
            if put { apply(&bed.index, &yaml) } else { remove(&bed.index, &yaml) }
            if read {
                replay(&mut held, &bed.follower.advance(&bed.index.read()).unwrap());
            }
        }
        replay(&mut held, &bed.follower.advance(&bed.index.read()).unwrap());
        let listed = listed(&bed.index.read(), &bed.follower.query);
        prop_assert_eq!(held.into_values().collect::<Vec<_>>(), listed);
    }

    #[test]
    fn whoever_reads_what_he_is_told_of_misses_nothing(
        steps in vec((vec(change(), 1..4), any::<u16>()), 1..20),
        begins in vec(0usize..8, TARGETS.len()),
    ) {
        let index = index(1000, "");
        let mut pairs: Vec<Pair> = Vec::new();
        for (step, (changes, readers)) in steps.iter().enumerate() {
            let late = TARGETS.iter().zip(&begins).filter(|(_, begin)| **begin == step);
            pairs.extend(late.map(|(target, _)| Pair::begin(&index, target)));
            apply_all(&index, changes);
            for (number, pair) in pairs.iter_mut().enumerate() {
                pair.published(&index.read());
                if (readers >> number) & 1 == 1 {
                    pair.compare(&index.read());
                }
            }
        }
        for pair in &mut pairs {
            pair.compare(&index.read());
        }
    }

    #[test]
    fn whoever_comes_back_with_a_version_that_he_saw_misses_nothing(
        steps in vec(vec(change(), 1..5), 1..12),
        target in prop::sample::select(TARGETS.to_vec()),
    ) {
        let index = index(1000, "");
        let (mut follower, mut held) = (Follower::new(query(target)), BTreeMap::new());
        follower.begin(&index.read(), false);
        for changes in &steps {
            apply_all(&index, changes);
            let state = index.read();
            for event in all(&mut follower, &state).split_inclusive(|byte| *byte == b'\n') {
                replay(&mut held, event);
                let event: Value = serde_json::from_slice(event).unwrap();
                let version = event["object"]["metadata"]["resourceVersion"].as_str().unwrap();
                come_back(target, &held, version.parse().unwrap(), &state);
            }
        }
    }
}
