//! Routes of a real API server: what becomes of the traffic, and what their authors read of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::Home;
use cluster::manifest::{client, deployment, http_server, namespace, permissive, pod, web};
use e2e::until;
use serde_json::json;

const HOME: &str = "routes";
const CLIENT: &str = "routes/client";
const SOON: Duration = Duration::from_secs(30);
/// The Gateway API's definitions.
const TCP_ROUTES: &str = "tcproutes.gateway.networking.k8s.io";

e2e::prove!(
    up,
    [
        a_route_splits_and_says_that_it_is_accepted,
        a_changed_route_takes_effect_and_its_status_follows,
        a_grpc_route_and_a_tcp_route_are_taken_in_the_version_that_is_served,
        what_the_mesh_cannot_do_is_refused_with_the_reason,
        a_backend_that_is_missing_is_named,
        a_kind_that_is_not_built_yet_is_refused_with_the_reason,
        another_controllers_status_is_left_alone_and_ours_is_written_once,
        a_route_that_leaves_gives_its_service_back,
        a_kind_that_is_missing_is_tolerated_and_taken_up_when_it_appears,
        the_mesh_describes_itself_where_its_definition_is_installed,
        one_replica_leads_and_another_takes_over,
    ]
);

fn up() -> Result<Home> {
    let manifests = [
        permissive(HOME),
        namespace("routes-plain", "", ""),
        pod(HOME, "client", "", &client()),
        deployment(HOME, "web-v1", 1, &http_server()),
        deployment(HOME, "web-v2", 1, &http_server()),
        web(HOME, "web", "web-v1"),
        web(HOME, "web-v1", "web-v1"),
        web(HOME, "web-v2", "web-v2"),
        web(HOME, "shared", "web-v1"),
        web(HOME, "bytes", "web-v1"),
        web(HOME, "calls", "web-v1"),
    ];
    Home::up(&manifests.concat())
}

fn route(kind: &str, version: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {HOME}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: {parent}}}]\n  rules: {rules}\n"
    )
}

fn http_route(name: &str, parent: &str, rules: &str) -> String {
    route("HTTPRoute", "v1", name, parent, rules)
}

fn split(v1: u32, v2: u32) -> String {
    let rules = format!(
        "[{{backendRefs: [{{name: web-v1, port: 80, weight: {v1}}}, {{name: web-v2, port: 80, weight: {v2}}}]}}]"
    );
    http_route("split", "web", &rules)
}

/// The status and reason of a condition.
fn verdict(home: &Home, kind: &str, name: &str, condition: &str) -> Result<(String, String)> {
    let (status, reason, _) = home.condition(kind, HOME, name, condition)?;
    Ok((status, reason))
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// How many of 200 answers came from a Deployment's pods.
fn answered_by(home: &Home, url: &str, deployment: &str) -> Result<u64> {
    let load = home.load(CLIENT, url, &["--requests", "200"])?;
    let pods = home.pods(HOME, &format!("app={deployment}"))?;
    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    Ok(names.map(|name| load.by(name)).sum())
}

fn a_route_splits_and_says_that_it_is_accepted(home: &Home) -> Result<()> {
    home.kubectl.apply(&split(0, 1))?;
    assert_eq!(verdict(home, "httproute", "split", "Accepted")?, is("True", "Accepted"));
    assert_eq!(verdict(home, "httproute", "split", "ResolvedRefs")?, is("True", "ResolvedRefs"));
    assert_eq!(answered_by(home, "http://web/", "web-v2")?, 200);
    Ok(())
}

fn a_changed_route_takes_effect_and_its_status_follows(home: &Home) -> Result<()> {
    home.kubectl.apply(&split(1, 1))?;
    // Of the present generation, which `condition` sees to.
    assert_eq!(verdict(home, "httproute", "split", "Accepted")?, is("True", "Accepted"));
    until("both versions answer", SOON, || {
        let part = answered_by(home, "http://web/", "web-v2")?;
        ensure!((60..=140).contains(&part), "{part} of 200");
        Ok(())
    })
}

fn a_grpc_route_and_a_tcp_route_are_taken_in_the_version_that_is_served(home: &Home) -> Result<()> {
    let rules = "[{backendRefs: [{name: web-v2, port: 80}]}]";
    home.kubectl.apply(&route("TCPRoute", "v1", "bytes", "bytes", rules))?;
    home.kubectl.apply(&route("GRPCRoute", "v1", "calls", "calls", rules))?;
    assert_eq!(verdict(home, "tcproute", "bytes", "Accepted")?, is("True", "Accepted"));
    assert_eq!(verdict(home, "grpcroute", "calls", "Accepted")?, is("True", "Accepted"));
    assert_eq!(answered_by(home, "http://bytes/", "web-v2")?, 200);
    Ok(())
}

fn what_the_mesh_cannot_do_is_refused_with_the_reason(home: &Home) -> Result<()> {
    let rules = "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web-v1, port: 80}}}], backendRefs: [{name: web-v1, port: 80}]}]";
    home.kubectl.apply(&http_route("mirrored", "shared", rules))?;
    let (status, reason, message) = home.condition("httproute", HOME, "mirrored", "Accepted")?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "UnsupportedValue"), "{message}");
    assert!(message.contains("RequestMirror"), "{message}");
    // A mistake never opens what the route was to guard.
    let reply = home.curl(CLIENT, &["http://shared/"])?;
    assert_eq!(reply.status, 404, "{reply:?}");
    home.kubectl.run(&["delete", "httproute", "-n", HOME, "mirrored"]).map(drop)
}

fn a_backend_that_is_missing_is_named(home: &Home) -> Result<()> {
    home.kubectl.apply(&http_route("lost", "shared", "[{backendRefs: [{name: nowhere, port: 80}]}]"))?;
    let (status, reason, message) = home.condition("httproute", HOME, "lost", "ResolvedRefs")?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "BackendNotFound"), "{message}");
    assert!(message.contains("nowhere"), "{message}");
    home.kubectl.run(&["delete", "httproute", "-n", HOME, "lost"]).map(drop)
}

fn a_kind_that_is_not_built_yet_is_refused_with_the_reason(home: &Home) -> Result<()> {
    let rules = "[{backendRefs: [{name: web-v1, port: 80}]}]";
    let tls = route("TLSRoute", "v1", "sealed", "shared", rules)
        .replace("spec:\n", "spec:\n  hostnames: [a.example]\n");
    home.kubectl.apply(&tls)?;
    home.kubectl.apply(&route("UDPRoute", "v1", "datagrams", "shared", rules))?;
    for (kind, name) in [("tlsroute", "sealed"), ("udproute", "datagrams")] {
        let (status, reason, message) = home.condition(kind, HOME, name, "Accepted")?;
        assert_eq!((status.as_str(), reason.as_str()), ("False", "UnsupportedValue"), "{kind}: {message}");
        home.kubectl.run(&["delete", kind, "-n", HOME, name])?;
    }
    Ok(())
}

fn another_controllers_status_is_left_alone_and_ours_is_written_once(home: &Home) -> Result<()> {
    let gateway = "    - {group: gateway.networking.k8s.io, kind: Gateway, name: edge}\n";
    let both = http_route("both", "shared", "[{backendRefs: [{name: web-v2, port: 80}]}]").replace(
        "  parentRefs: [{group: '', kind: Service, name: shared}]\n",
        &format!("  parentRefs:\n    - {{group: '', kind: Service, name: shared}}\n{gateway}"),
    );
    home.kubectl.apply(&both)?;
    home.condition("httproute", HOME, "both", "Accepted")?;
    let theirs = json!({
        "controllerName": "example.com/edge",
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "theirs",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }],
    });
    // As another controller adds itself: to the list as it is.
    let add = json!([{"op": "add", "path": "/status/parents/-", "value": theirs}]).to_string();
    home.kubectl.run(&[
        "patch",
        "httproute",
        "-n",
        HOME,
        "both",
        "--subresource=status",
        "--type=json",
        "-p",
        &add,
    ])?;
    // Our next verdict is another one: written, with theirs as it was.
    home.kubectl.apply(&both.replace("name: web-v2", "name: gone"))?;
    assert_eq!(verdict(home, "httproute", "both", "ResolvedRefs")?, is("False", "BackendNotFound"));
    let route = home.kubectl.get(&["httproute", "-n", HOME, "both"])?;
    let parents = route["status"]["parents"].as_array().context("parents")?;
    assert!(parents.contains(&theirs), "{parents:?}");
    assert_eq!(parents.len(), 2, "the Gateway is not ours: {parents:?}");
    // Another route's status is written later, and this one has not been again.
    home.kubectl.apply(&http_route("later", "calls", "[{backendRefs: [{name: web-v2, port: 80}]}]"))?;
    home.condition("httproute", HOME, "later", "Accepted")?;
    let again = home.kubectl.get(&["httproute", "-n", HOME, "both"])?;
    assert_eq!(again["metadata"]["resourceVersion"], route["metadata"]["resourceVersion"]);
    home.kubectl.run(&["delete", "httproute", "-n", HOME, "both", "later"]).map(drop)
}

fn a_route_that_leaves_gives_its_service_back(home: &Home) -> Result<()> {
    home.kubectl.run(&["delete", "httproute", "-n", HOME, "split"])?;
    until("the Service's own pods answer again", SOON, || {
        let own = answered_by(home, "http://web/", "web-v1")?;
        ensure!(own == 200, "{own} of 200");
        Ok(())
    })
}

/// The file of a definition of the Gateway API, of a channel.
fn definition(channel: &str, name: &str) -> String {
    let directory = "/run/heddle-cluster/crds";
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    format!("{directory}/{channel}/{group}_{plural}.yaml")
}

fn a_kind_that_is_missing_is_tolerated_and_taken_up_when_it_appears(home: &Home) -> Result<()> {
    ensure!(home.kubectl.is_own(), "definitions are taken away from the tests' own cluster alone");
    home.kubectl.run(&["delete", "crd", TCP_ROUTES, "--timeout", "60s"])?;
    until("the route is gone with its kind", SOON, || {
        let own = answered_by(home, "http://bytes/", "web-v1")?;
        ensure!(own == 200, "{own} of 200");
        Ok(())
    })?;
    home.kubectl.apply(&split(1, 0))?;
    assert_eq!(verdict(home, "httproute", "split", "Accepted")?, is("True", "Accepted"));
    home.kubectl.run(&["apply", "--server-side", "-f", &definition("standard", TCP_ROUTES)])?;
    home.kubectl.run(&["wait", "crd", TCP_ROUTES, "--for", "condition=Established", "--timeout", "30s"])?;
    let rules = "[{backendRefs: [{name: web-v2, port: 80}]}]";
    until("the kind can be used", SOON, || {
        home.kubectl.apply(&route("TCPRoute", "v1", "bytes", "bytes", rules))
    })?;
    until("the route is taken up", SOON, || {
        let part = answered_by(home, "http://bytes/", "web-v2")?;
        ensure!(part == 200, "{part} of 200");
        Ok(())
    })?;
    assert_eq!(verdict(home, "tcproute", "bytes", "Accepted")?, is("True", "Accepted"));
    Ok(())
}

fn the_mesh_describes_itself_where_its_definition_is_installed(home: &Home) -> Result<()> {
    ensure!(home.kubectl.is_own(), "definitions are added to the tests' own cluster alone");
    let name = "xmeshes.gateway.networking.x-k8s.io";
    home.kubectl.run(&["apply", "--server-side", "-f", &definition("experimental", name)])?;
    let mesh = until("there is an XMesh", SOON, || {
        let mesh = home.kubectl.get(&["xmesh", "heddle"])?;
        ensure!(!mesh["status"]["supportedFeatures"].is_null(), "without its features");
        Ok(mesh)
    })?;
    let features: Vec<&str> = mesh["status"]["supportedFeatures"]
        .as_array()
        .map(|all| all.iter().filter_map(|feature| feature["name"].as_str()).collect())
        .unwrap_or_default();
    assert!(features.is_sorted() && features.contains(&"MeshClusterIPMatching"), "{features:?}");
    let accepted = &mesh["status"]["conditions"][0];
    assert_eq!((accepted["type"].as_str(), accepted["status"].as_str()), (Some("Accepted"), Some("True")));
    home.kubectl.run(&["delete", "crd", name, "--timeout", "60s"]).map(drop)
}

fn leader(home: &Home) -> Result<String> {
    let lease = home.kubectl.get(&["lease", "-n", "heddle-system", "heddle-injector"])?;
    lease["spec"]["holderIdentity"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .context("no leader")
}

fn one_replica_leads_and_another_takes_over(home: &Home) -> Result<()> {
    let first = until("there is a leader", SOON, || leader(home))?;
    home.kubectl.run(&["delete", "pod", "-n", "heddle-system", &first, "--wait=false"])?;
    until("another one leads", SOON, || {
        let now = leader(home)?;
        ensure!(now != first, "still {first}");
        Ok(())
    })?;
    home.kubectl.apply(&split(1, 3))?;
    assert_eq!(verdict(home, "httproute", "split", "Accepted")?, is("True", "Accepted"));
    home.rolled_out("heddle-system", "deployment/heddle-injector")
}
