use crate::route::{Governing, HttpTable};
use crate::testing::{Request, World, found};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cmp::Reverse;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";

fn table_of(world: &World) -> HttpTable {
    let ports = world.table("shop/web", "shop").ports;
    let port = ports.into_values().next().unwrap();
    let Governing::Http { table, .. } = port.governing else { panic!("{port:?}") };
    table
}

/// A table of one route whose rules are these matches, named by their place.
fn table(matches: &[Value]) -> HttpTable {
    let rules: Vec<_> =
        matches.iter().enumerate().map(|(ix, m)| json!({"name": ix.to_string(), "matches": [m]})).collect();
    let mut world = World::new(SERVICE);
    world.add(route("r", None, &rules));
    table_of(&world)
}

fn route(name: &str, created: Option<i64>, rules: &[Value]) -> serde_norway::Value {
    let mut meta = json!({"name": name, "namespace": "shop"});
    if let Some(created) = created {
        meta["creationTimestamp"] = json!(format!("2026-01-01T00:00:{created:02}Z"));
    }
    let parent = json!({"group": "", "kind": "Service", "name": "web"});
    let object = json!({"kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1", "metadata": meta,
        "spec": {"parentRefs": [parent], "rules": rules}});
    serde_norway::to_value(object).unwrap()
}

#[track_caller]
fn check(matches: &[Value], line: &str, headers: &[(&str, &str)], expected: Option<usize>) {
    let found = found(&table(matches), &Request::new(line, headers));
    assert_eq!(found, expected.map(|ix| ix.to_string()), "{line} {headers:?}");
}

fn path(kind: &str, value: &str) -> Value {
    json!({"path": {"type": kind, "value": value}})
}

#[test]
fn a_prefix_matches_whole_elements() {
    let prefix = [path("PathPrefix", "/abc")];
    for line in ["GET /abc", "GET /abc/", "GET /abc/def", "GET /abc//"] {
        check(&prefix, line, &[], Some(0));
    }
    for line in ["GET /abcd", "GET /ab", "GET /", "GET /ABC", "GET /abc%2Fdef"] {
        check(&prefix, line, &[], None);
    }
    check(&[path("PathPrefix", "/abc/")], "GET /abc", &[], Some(0));
    check(&[json!({})], "OPTIONS *", &[], Some(0));
}

#[test]
fn an_exact_path_is_exact() {
    check(&[path("Exact", "/a/")], "GET /a/", &[], Some(0));
    check(&[path("Exact", "/a/")], "GET /a", &[], None);
    check(&[path("Exact", "/a")], "GET /a/", &[], None);
}

#[test]
fn an_expression_matches_the_whole_path() {
    let alternatives = [path("RegularExpression", "/a|/ab")];
    check(&alternatives, "GET /ab", &[], Some(0));
    check(&alternatives, "GET /abc", &[], None);
    check(&alternatives, "GET /x/a", &[], None);
}

#[test]
fn exact_outranks_prefix_and_longer_outranks_shorter() {
    let matches = [
        path("PathPrefix", "/"),
        path("PathPrefix", "/a"),
        path("PathPrefix", "/a/b"),
        path("Exact", "/a/b"),
    ];
    check(&matches, "GET /a/b", &[], Some(3));
    check(&matches, "GET /a/b/c", &[], Some(2));
    check(&matches, "GET /a/x", &[], Some(1));
    check(&matches, "GET /x", &[], Some(0));
}

#[test]
fn an_expression_ranks_between_prefixes_and_any_path() {
    let matches = [path("PathPrefix", "/"), path("RegularExpression", "/a/.*"), path("PathPrefix", "/a/b")];
    check(&matches, "GET /a/b", &[], Some(2));
    check(&matches, "GET /a/c", &[], Some(1));
    check(&matches, "GET /b", &[], Some(0));
}

#[test]
fn method_outranks_headers() {
    let headers = json!({"headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]});
    let sent = [("x", "1"), ("y", "1")];
    check(&[headers.clone(), json!({"method": "GET"})], "GET /", &sent, Some(1));
    check(&[headers, json!({"method": "GET"})], "POST /", &sent, Some(0));
}

#[test]
fn more_headers_outrank_more_query_parameters() {
    let query = json!({"queryParams": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]});
    let header = json!({"headers": [{"name": "x", "value": "1"}]});
    check(&[query, header], "GET /?a=1&b=1", &[("x", "1")], Some(1));
}

#[test]
fn the_first_of_equal_rules_wins() {
    check(&[path("Exact", "/a"), path("Exact", "/a")], "GET /a", &[], Some(0));
}

#[test]
fn the_oldest_route_wins_then_the_first_by_name() {
    let rules = |name: &str| vec![json!({"name": name})];
    let mut world = World::new(SERVICE);
    for (name, created) in [("a", None), ("c", Some(5)), ("b", Some(5)), ("d", Some(9))] {
        world.add(route(name, created, &rules(name)));
    }
    assert_eq!(found(&table_of(&world), &Request::new("GET /", &[])), Some("b".to_owned()));
}

#[test]
fn header_names_compare_without_case_and_values_with_it() {
    let header = [json!({"headers": [{"name": "X-Color", "value": "Blue"}]})];
    check(&header, "GET /", &[("x-color", "Blue")], Some(0));
    check(&header, "GET /", &[("x-color", "blue")], None);
}

#[test]
fn of_repeated_conditions_on_a_header_the_first_counts() {
    let header = [json!({"headers": [{"name": "x", "value": "1"}, {"name": "X", "value": "2"}]})];
    check(&header, "GET /", &[("x", "1")], Some(0));
    check(&header, "GET /", &[("x", "2")], None);
}

#[test]
fn a_repeated_header_is_its_values_joined() {
    let exact = [json!({"headers": [{"name": "x", "value": "a,b"}]})];
    let sent = [("x", "a"), ("x", "b")];
    check(&exact, "GET /", &sent, Some(0));
    check(&exact, "GET /", &[("x", "a"), ("x", "b"), ("x", "c")], None);
    check(&[json!({"headers": [{"name": "x", "value": "a"}]})], "GET /", &sent, None);
    let regex = json!({"headers": [{"name": "x", "type": "RegularExpression", "value": "a,."}]});
    check(&[regex], "GET /", &sent, Some(0));
}

#[test]
fn host_is_matched_as_received_in_both_versions_of_http() {
    check(&[json!({"headers": [{"name": "Host", "value": "web"}]})], "GET /", &[], Some(0));
}

#[test]
fn the_first_value_of_a_query_parameter_counts() {
    let query = [json!({"queryParams": [{"name": "a", "value": "1"}]})];
    check(&query, "GET /?b=2&a=1&a=3", &[], Some(0));
    check(&query, "GET /?a=3&a=1", &[], None);
    check(&query, "GET /?A=1", &[], None);
    check(&query, "GET /", &[], None);
    check(&[json!({"queryParams": [{"name": "a", "value": ""}]})], "GET /?a", &[], Some(0));
    let regex = json!({"queryParams": [{"name": "a", "type": "RegularExpression", "value": "[0-9]+"}]});
    check(std::slice::from_ref(&regex), "GET /?a=42", &[], Some(0));
    check(&[regex], "GET /?a=42x", &[], None);
}

#[test]
fn all_conditions_of_a_match_must_hold() {
    let both = [json!({"path": {"value": "/a"}, "method": "POST", "headers": [{"name": "x", "value": "1"}]})];
    check(&both, "POST /a", &[("x", "1")], Some(0));
    check(&both, "GET /a", &[("x", "1")], None);
    check(&both, "POST /a", &[], None);
}

/// A condition set as the oracle reads it.
#[derive(Clone, Debug)]
struct Condition {
    path: (&'static str, &'static str),
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct OracleRoute {
    created: Option<i64>,
    rules: Vec<Vec<Condition>>,
}

impl Condition {
    fn json(&self) -> Value {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<Value> {
            pairs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
        };
        let mut object = path(self.path.0, self.path.1);
        object["headers"] = json!(pairs(&self.headers));
        object["queryParams"] = json!(pairs(&self.query));
        if let Some(method) = self.method {
            object["method"] = json!(method);
        }
        object
    }

    /// The specification, word for word and without any index.
    fn holds(&self, method: &str, path: &str, headers: &[(&str, &str)], query: &[(&str, &str)]) -> bool {
        let elements = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let path_holds = match self.path {
            ("Exact", value) => path == value,
            ("PathPrefix", value) => elements(path).starts_with(&elements(value.trim_end_matches('/'))),
            (_, "/a.*") => path.starts_with("/a"),
            (_, "/(a|b)/.") => ["/a/a", "/a/b", "/b/a", "/b/b"].contains(&path),
            other => panic!("{other:?}"),
        };
        let first = |pairs: &[(&str, &str)], name: &&str| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, v)| (*v).to_owned())
        };
        path_holds
            && self.method.is_none_or(|wanted| wanted == method)
            && self.headers.iter().all(|(name, value)| first(headers, name).as_deref() == Some(value))
            && self.query.iter().all(|(name, value)| first(query, name).as_deref() == Some(value))
    }

    fn rank(&self) -> (u8, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>) {
        let (kind, length) = match self.path {
            ("Exact", _) => (0, 0),
            ("PathPrefix", "/") => (3, 0),
            ("PathPrefix", value) => (1, value.trim_end_matches('/').len()),
            _ => (2, 0),
        };
        let counts = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (kind, Reverse(length), Reverse(self.method.is_some()), counts.0, counts.1)
    }
}

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    (
        prop::option::of(prop::sample::select(vec!["1", "2"])),
        prop::option::of(prop::sample::select(vec!["1", "2"])),
    )
        .prop_map(|(x, y)| x.map(|v| ("x", v)).into_iter().chain(y.map(|v| ("y", v))).collect())
}

fn condition() -> impl Strategy<Value = Condition> {
    let paths = vec![
        ("Exact", "/a"),
        ("Exact", "/a/b"),
        ("Exact", "/"),
        ("PathPrefix", "/"),
        ("PathPrefix", "/a"),
        ("PathPrefix", "/a/"),
        ("PathPrefix", "/a/b"),
        ("PathPrefix", "/ab"),
        ("RegularExpression", "/a.*"),
        ("RegularExpression", "/(a|b)/."),
    ];
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    (prop::sample::select(paths), method, pairs(), pairs())
        .prop_map(|(path, method, headers, query)| Condition { path, method, headers, query })
}

fn routes() -> impl Strategy<Value = Vec<OracleRoute>> {
    let rules = prop::collection::vec(prop::collection::vec(condition(), 1..4), 1..4);
    let route =
        (prop::option::of(0i64..3), rules).prop_map(|(created, rules)| OracleRoute { created, rules });
    prop::collection::vec(route, 1..4)
}

fn name_of(route: usize) -> String {
    // Names do not follow the order of creation in the world.
    format!("r{}", 9 - route)
}

proptest! {
    #[test]
    fn matching_equals_the_oracle(
        routes in routes(), method in prop::sample::select(vec!["GET", "POST"]),
        path in "(/|(/(a|b|ab|a%2Fb)){1,3}/?|//a|/a//b)", headers in pairs(), query in pairs(),
    ) {
        let mut world = World::new(SERVICE);
        let mut candidates = Vec::new();
        for (ix, one) in routes.iter().enumerate() {
            let rules = one.rules.iter().map(|m| json!({"matches": m.iter().map(Condition::json).collect::<Vec<_>>()}));
            world.add(route(&name_of(ix), one.created, &rules.collect::<Vec<_>>()));
            for (rule, conditions) in one.rules.iter().enumerate() {
                for condition in conditions.iter().filter(|c| c.holds(method, &path, &headers, &query)) {
                    candidates.push((condition.rank(), one.created.unwrap_or(i64::MAX), name_of(ix), rule));
                }
            }
        }
        let expected = candidates.into_iter().min().map(|(_, _, name, rule)| format!("shop/{name}[{rule}]"));
        let text: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::new(&format!("{method} {path}?{}", text.join("&")), &headers);
        let table = table_of(&world);
        prop_assert_eq!(&found(&table, &request), &expected);
        // The published order says the same as the index.
        let first = table.matches().find(|(matched, _)| matched.matches(&request.head()));
        prop_assert_eq!(first.map(|(_, rule)| format!("{}[{}]", rule.route.name, rule.rule)), expected);
    }
}
