//! Finding the rule of a request among 10, 100 and 1,000, by each kind of condition, and deciding it. A request that
//! matches the last rule in precedence is the worst that a table has to answer.

mod world;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh::http::decide;
use mesh::resolve::{View as _, service_table};
use mesh::route::{Governing, HttpTable, RequestHead};
use serde_json::{Value, json};
use std::hint::black_box;
use world::World;

/// How many rules of each kind; of expressions a table takes 512 at most.
const RULES: [usize; 3] = [10, 100, 1000];
const EXPRESSIONS: [usize; 3] = [10, 100, 500];

/// The condition of the rule with this number.
type Condition = fn(usize) -> Value;

fn exact(n: usize) -> Value {
    json!({"path": {"type": "Exact", "value": format!("/api/v1/orders/{n}")}})
}

fn prefix(n: usize) -> Value {
    json!({"path": {"type": "PathPrefix", "value": format!("/api/v1/{n}")}})
}

fn expression(n: usize) -> Value {
    json!({"path": {"type": "RegularExpression", "value": format!("/api/v1/{n}/[0-9]+")}})
}

fn header(n: usize) -> Value {
    json!({"headers": [{"name": "x-tenant", "value": n.to_string()}]})
}

fn headers_of_one_path(n: usize) -> Value {
    json!({"path": {"value": "/api"}, "method": "GET",
        "headers": [{"name": "x-stage", "value": "canary"}, {"name": "x-tenant", "value": n.to_string()}]})
}

fn query(n: usize) -> Value {
    json!({"queryParams": [{"name": "tenant", "value": n.to_string()}]})
}

fn matching(criterion: &mut Criterion) {
    kind(criterion, "exact paths", RULES, exact, "/api/v1/orders/{}");
    kind(criterion, "prefixes", RULES, prefix, "/api/v1/{}/orders/17");
    kind(criterion, "expressions", EXPRESSIONS, expression, "/api/v1/{}/17");
    kind(criterion, "headers", RULES, header, "/api/v1/orders");
    kind(criterion, "headers of one path", RULES, headers_of_one_path, "/api/v1/orders");
    kind(criterion, "query parameters", RULES, query, "/api/v1/orders?page=2&tenant={}");
}

/// Asks tables of a kind for their last rule. In `target`, `{}` is that rule's number.
fn kind(criterion: &mut Criterion, name: &str, rules: [usize; 3], condition: Condition, target: &str) {
    let mut group = criterion.benchmark_group(format!("matching {name}"));
    for number in rules {
        let table = table((0..number).map(condition));
        let last = (number - 1).to_string();
        let (target, headers) = (target.replace("{}", &last), headers(&last));
        let head = head(&target, &headers);
        assert_eq!(
            table.find(&head).map(|rule| &*rule.route.name.name),
            Some(&*format!("web-{}", (number - 1) / 16))
        );
        group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
            bencher.iter(|| decide(black_box(&table), black_box(&head), black_box(17)));
        });
    }
}

/// What most requests cost: a few rules, of which one for any path takes this one.
fn deciding(criterion: &mut Criterion) {
    let rules = [exact(1), prefix(2), prefix(3), headers_of_one_path(4), json!({})];
    let (table, headers) = (table(rules), headers("5"));
    let head = head("/other/path?with=a&query", &headers);
    criterion.bench_function("decide a typical request", |bencher| {
        bencher.iter(|| decide(black_box(&table), black_box(&head), black_box(17)));
    });
}

fn table(rules: impl IntoIterator<Item = Value>) -> HttpTable {
    let mut world = World::default();
    let name = world.add("web", rules);
    let service = world.service(&name).expect("just added");
    let mut ports = service_table(service, "shop", &world).ports;
    let port = ports.remove(&80).expect("its port");
    let Governing::Http { table, .. } = port.governing else { panic!("{port:?}") };
    table
}

/// As many headers as browsers and libraries send.
fn headers(tenant: &str) -> HeaderMap {
    let usual = [
        ("host", "web.shop.svc.cluster.local"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "application/json"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-request-id", "9f2c1c9e-7a53-4d4e-9d3b-0a4d0f6d2a11"),
        ("x-stage", "canary"),
    ];
    let named = |(name, value): (&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
    };
    usual.into_iter().chain([("x-tenant", tenant)]).map(named).collect()
}

fn head<'a>(target: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestHead {
        method: &Method::GET,
        path,
        query,
        headers,
        host: "web.shop.svc.cluster.local",
        scheme: "http",
    }
}

criterion_group!(benches, matching, deciding);
criterion_main!(benches);
