use super::*;
use crate::resolve::bind::{MAX_TABLE_EXPRESSIONS, check_parent, fits, tcp_ports};
use crate::resolve::{Judge, ParentVerdict, service_table, verdicts};
use crate::route::ParentRef;
use crate::testing::World;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cell::Cell;

/// Services with ports of all sorts, and one that cannot be a parent.
const SERVICES: &str = "
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [
  {name: http, port: 80}, {name: h2c, port: 81, appProtocol: kubernetes.io/h2c}, {name: db, port: 82, appProtocol: tcp},
  {name: any, port: 83}, {name: dns, port: 53, protocol: UDP}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: api, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: headless, namespace: shop}, spec: {clusterIP: None, ports: [{port: 80}]}}
";

/// What differs between routes.
#[derive(Clone, Debug)]
struct Draft {
    kind: RouteKind,
    namespace: &'static str,
    created: Option<u8>,
    parents: Vec<Value>,
    /// How many, and which.
    expressions: (usize, &'static str),
}

impl Draft {
    fn route(&self, ix: usize) -> Route {
        let (count, pattern) = self.expressions;
        let header = json!({"type": "RegularExpression", "name": "x", "value": pattern});
        let matches = vec![json!({"headers": [header]}); count];
        let rules = if count > 0 { json!([{"matches": matches}]) } else { json!([]) };
        let created = self.created.map(|second| format!("2020-01-01T00:00:0{second}Z"));
        let metadata =
            json!({"name": format!("r{ix}"), "namespace": self.namespace, "creationTimestamp": created});
        let spec = json!({"parentRefs": self.parents, "rules": rules});
        Route::from_json(self.kind, &json!({"metadata": metadata, "spec": spec})).unwrap()
    }
}

fn world(services: &str, drafts: &[Draft]) -> World {
    let mut world = World::new(services);
    world.routes.extend(drafts.iter().enumerate().map(|(ix, draft)| draft.route(ix)));
    world
}

fn parent() -> impl Strategy<Value = Value> {
    let service = prop::sample::select(vec!["web", "web", "web", "api", "headless", "gone"]);
    let port = prop::option::of(prop::sample::select(vec![80, 81, 82, 83, 99]));
    let section = prop::option::weighted(0.2, prop::sample::select(vec!["http", "db", "gone"]));
    (service, port, section).prop_map(|(name, port, section)| {
        json!({"group": "", "kind": "Service", "namespace": "shop", "name": name, "port": port, "sectionName": section})
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    let kind = prop_oneof![
        20 => Just(RouteKind::Http), 1 => Just(RouteKind::Grpc), 4 => Just(RouteKind::Tcp),
        1 => Just(RouteKind::Tls), 1 => Just(RouteKind::Udp),
    ];
    let namespace = prop::sample::select(vec!["shop", "shop", "till"]);
    // A broken expression counts, and takes no time to compile.
    let of = |count: usize, pattern: &'static str| Just((count, pattern));
    let expressions = prop_oneof![3 => of(0, ""), 2 => of(1, "a"), 2 => of(128, "(")];
    let parents = prop::collection::vec(parent(), 1..5);
    (kind, namespace, prop::option::of(0u8..3), parents, expressions).prop_map(
        |(kind, namespace, created, parents, expressions)| Draft {
            kind,
            namespace,
            created,
            parents,
            expressions,
        },
    )
}

/// A world without one of its routes.
struct Without<'w> {
    world: &'w World,
    route: &'w Route,
}

impl View for Without<'_> {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.world.service(name)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        let missing = self.route;
        Box::new(self.world.routes_bound_to(service).filter(move |route| !std::ptr::eq(*route, missing)))
    }
}

/// A judge of all routes says of each what one for it alone does, whether the view has it or not, and what is true when
/// everything is looked for anew.
#[track_caller]
fn check(world: &World) {
    let mut judge = Judge::new(world);
    for route in &world.routes {
        let judged = judge.verdicts(route);
        assert_eq!(judged, verdicts(route, world));
        let again = route.clone();
        assert_eq!(judged, verdicts(&again, world), "another version of it");
        assert_eq!(judged, verdicts(route, &Without { world, route }), "a view that lacks it");
        for ParentVerdict { parent, accepted, .. } in &judged {
            let Some((reason, end)) = long_way(route, parent, world) else { continue };
            assert_eq!(accepted.reason, reason, "{}", accepted.message);
            assert!(accepted.message.ends_with(&end), "{} has not lost {end}", accepted.message);
        }
    }
}

/// The reason that a route earns towards a parent, and how its message ends; nothing if it has no port to contest for.
fn long_way(route: &Route, parent: &ParentRef, world: &World) -> Option<(&'static str, String)> {
    let name = ServiceName::new("shop", &parent.name);
    let service = world.services.get(&name).filter(|service| check_parent(service).is_ok())?;
    let meant = tcp_ports(service).filter(|port| port.is_meant_by(parent));
    let ports: Vec<_> = meant.filter(|port| fits(route.kind(), port.declared())).collect();
    if ports.is_empty() || !route.refusals.is_empty() {
        return None;
    }
    let (mut lost, mut crowded_out) = (Vec::new(), false);
    for port in &ports {
        let governors = governors(&name, port, &route.name().namespace, world);
        let oldest = governors[0];
        let alone = route.kind() == RouteKind::Tcp;
        if oldest.kind() != route.kind() || (alone && !std::ptr::eq(oldest, route)) {
            lost.push(format!("port {} ({} {})", port.number, oldest.kind().as_str(), oldest.name()));
        }
        let mut total = 0;
        for governor in governors {
            let fits = total + governor.expressions() <= MAX_TABLE_EXPRESSIONS;
            total += if fits { governor.expressions() } else { 0 };
            crowded_out |= !fits && std::ptr::eq(governor, route);
        }
    }
    Some(match lost.len() == ports.len() {
        true => ("Conflicted", lost.join(", ")),
        false if crowded_out => ("UnsupportedValue", "use fewer".to_owned()),
        false => ("Accepted", lost.join(", ")),
    })
}

/// Those of a namespace's routes that govern a port, oldest first: the specification, word for word.
fn governors<'w>(name: &ServiceName, port: &Port<'_>, namespace: &str, world: &'w World) -> Vec<&'w Route> {
    let http = |kind: RouteKind| matches!(kind, RouteKind::Grpc | RouteKind::Http);
    let names_port = |route: &Route| {
        let meant = route.parents_of(name).filter(|parent| port.is_meant_by(parent));
        meant.map(ParentRef::names_port).max()
    };
    let own = world.routes.iter().filter(|route| &*route.name().namespace == namespace);
    let fitting = own.filter(|route| fits(route.kind(), port.declared()));
    let mut claims: Vec<(&Route, bool)> =
        fitting.filter_map(|route| Some((route, names_port(route)?))).collect();
    let named = claims.iter().filter(|(_, names_port)| *names_port).map(|(route, _)| route.kind()).min();
    claims.retain(|(route, names_port)| {
        let spoken = |kind: RouteKind| kind == route.kind() || (http(kind) && http(route.kind()));
        *names_port || named.is_none_or(spoken)
    });
    let first = claims.iter().map(|(route, _)| route.kind()).min();
    let mut governors: Vec<_> = claims.into_iter().map(|(route, _)| route).collect();
    governors.retain(|route| Some(route.kind()) == first);
    governors.sort_by_key(|route| (route.created().unwrap_or(i64::MAX), route.name()));
    governors
}

#[track_caller]
fn check_table(world: &World, client: &str) {
    let name = ServiceName::new("shop", "web");
    let service = &world.services[&name];
    let of = |namespace: &str| {
        let ports = tcp_ports(service).map(|port| governors(&name, &port, namespace, world));
        ports.collect::<Vec<_>>()
    };
    let consumer = of(client);
    let all = if consumer.iter().all(Vec::is_empty) { of("shop") } else { consumer };
    let table = world.table("shop/web", client);
    for (port, governors) in tcp_ports(service).zip(all) {
        let merge = |route: &&Route| matches!(route.kind(), RouteKind::Grpc | RouteKind::Http);
        let shown = if governors.first().is_some_and(merge) { governors.len() } else { 1 };
        let expected: Vec<RouteRef> = governors.iter().take(shown).map(|route| route.reference()).collect();
        assert_eq!(table.ports[&port.number].governing.routes(), expected, "port {}", port.number);
    }
}

proptest! {
    // Each case has dozens of routes: a few hundred together.
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn routes_judged_together_are_judged_as_each_alone(drafts in prop::collection::vec(draft(), 1..64)) {
        check(&world(SERVICES, &drafts));
    }

    #[test]
    fn a_table_has_the_routes_that_govern(drafts in prop::collection::vec(draft(), 1..64)) {
        let world = world(SERVICES, &drafts);
        for client in ["shop", "till", "other"] {
            check_table(&world, client);
        }
    }
}

/// A world that counts how often it is asked for the routes of a Service.
struct Counted {
    world: World,
    asked: Cell<usize>,
}

impl View for Counted {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.world.service(name)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        self.asked.set(self.asked.get() + 1);
        self.world.routes_bound_to(service)
    }
}

#[test]
fn a_services_routes_are_asked_for_once_however_many_they_are() {
    let ports: Vec<_> = (1..=32).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    let service = format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: wide, namespace: shop}}, spec: {{ports: [{}]}}}}",
        ports.join(", ")
    );
    let wide = json!({"group": "", "kind": "Service", "namespace": "shop", "name": "wide"});
    let parent = |port: u16| {
        let mut parent = wide.clone();
        parent["port"] = json!(port);
        parent
    };
    let draft = |namespace: &'static str| Draft {
        kind: RouteKind::Http,
        namespace,
        created: None,
        parents: (1..=32).map(&parent).collect(),
        expressions: (0, ""),
    };
    let drafts = [vec![draft("shop"); 500], vec![draft("till"); 500]].concat();
    let counted = Counted { world: world(&service, &drafts), asked: Cell::new(0) };

    let mut judge = Judge::new(&counted);
    let verdicts = counted.world.routes.iter().flat_map(|route| judge.verdicts(route));
    assert_eq!(verdicts.filter(|verdict| verdict.accepted.status).count(), 32_000);
    assert_eq!(counted.asked.replace(0), 1);

    let service = &counted.world.services[&ServiceName::new("shop", "wide")];
    let table = service_table(service, "till", &counted);
    assert!(table.ports.values().all(|port| port.governing.routes().len() == 500));
    assert_eq!(counted.asked.get(), 1);
}
