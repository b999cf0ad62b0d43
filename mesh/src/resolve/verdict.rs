//! What a route's status must say: the same rules as the table's, told to the route's author.

use super::bind::{MAX_TABLE_EXPRESSIONS, Port, check_parent, fits, governors, tcp_ports, within_bounds};
use super::{View, backend};
use crate::names::ServiceName;
use crate::route::{ParentRef, Route, RouteKind};

/// The most characters of a message; a Condition allows 32768, a person reads fewer.
const MAX_MESSAGE: usize = 1024;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True` or `False`.
    pub status: bool,
    /// A reason of the Gateway API.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Verdict {
    fn yes(reason: &'static str, message: &str) -> Self {
        Self { status: true, reason, message: message.chars().take(MAX_MESSAGE).collect() }
    }

    fn no(reason: &'static str, message: &str) -> Self {
        Self { status: false, ..Self::yes(reason, message) }
    }
}

/// The conditions of a route towards one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentVerdict {
    /// The parent, as written.
    pub parent: ParentRef,
    /// The condition `Accepted`.
    pub accepted: Verdict,
    /// The condition `ResolvedRefs`.
    pub resolved_refs: Verdict,
}

/// The verdicts on a route, one for each parent that is a Service. Gateways are not ours to judge.
pub fn verdicts(route: &Route, view: &dyn View) -> Vec<ParentVerdict> {
    let resolved_refs = resolved_refs(route, view);
    let mut verdicts: Vec<ParentVerdict> = Vec::new();
    for parent in route.parents() {
        let Some(service) = parent.service(&route.name().namespace) else { continue };
        if verdicts.iter().all(|earlier| earlier.parent != *parent) {
            let accepted = accepted(route, parent, &service, view);
            verdicts.push(ParentVerdict {
                parent: parent.clone(),
                accepted,
                resolved_refs: resolved_refs.clone(),
            });
        }
    }
    verdicts
}

fn accepted(route: &Route, parent: &ParentRef, name: &ServiceName, view: &dyn View) -> Verdict {
    if let Some(refusal) = route.refusals.first() {
        let messages: Vec<_> = route.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
        return Verdict::no(refusal.reason, &messages.join("; "));
    }
    let no_parent = |why: &str| Verdict::no("NoMatchingParent", why);
    let Some(service) = view.service(name) else {
        return no_parent(&format!("Service {name} does not exist"));
    };
    if let Err(why) = check_parent(service) {
        return no_parent(&format!("Service {name} cannot be a parent: {why}"));
    }
    let meant: Vec<_> = tcp_ports(service).filter(|port| port.is_meant_by(parent)).collect();
    if meant.is_empty() {
        return no_parent(&format!("Service {name} has no TCP port that the parentRef names"));
    }
    let fitting: Vec<_> = meant.into_iter().filter(|port| fits(route.kind(), port.declared())).collect();
    if fitting.is_empty() {
        let kind = route.kind().as_str();
        return no_parent(&format!(
            "by its appProtocol, Service {name} carries nothing here that is for kind {kind}"
        ));
    }
    contest(route, name, &fitting, view)
}

/// Whether the route governs the ports that it could.
fn contest(route: &Route, name: &ServiceName, ports: &[Port<'_>], view: &dyn View) -> Verdict {
    let rivals = rivals(route, name, view);
    let lost: Vec<String> = ports.iter().filter_map(|port| lost_to(route, &rivals, name, port)).collect();
    if lost.len() == ports.len() {
        return Verdict::no(
            "Conflicted",
            &format!("other routes of Service {name} govern {}", lost.join(", ")),
        );
    }
    if ports.iter().any(|port| is_crowded_out(route, &rivals, name, port)) {
        return Verdict::no(
            "UnsupportedValue",
            &format!(
                "the routes of Service {name} have more than {MAX_TABLE_EXPRESSIONS} regular expressions together, \
                 and older ones come first: use fewer"
            ),
        );
    }
    let governs = format!("governs traffic to Service {name}");
    match lost.is_empty() {
        true => Verdict::yes("Accepted", &governs),
        false => Verdict::yes("Accepted", &format!("{governs}, but other routes govern {}", lost.join(", "))),
    }
}

/// Whether the route governs the port and yet has no part in its table.
fn is_crowded_out(route: &Route, rivals: &[&Route], service: &ServiceName, port: &Port<'_>) -> bool {
    let admitted = within_bounds(&governors(rivals, service, port));
    admitted.iter().any(|(other, fits)| !fits && other.reference() == route.reference())
}

/// The routes of the same namespace that are bound to the Service, this one included: groups never conflict with each other.
fn rivals<'a>(route: &'a Route, name: &ServiceName, view: &'a dyn View) -> Vec<&'a Route> {
    let is_this = |other: &Route| other.kind() == route.kind() && other.name() == route.name();
    let others = view.routes_bound_to(name).filter(|other| other.name().namespace == route.name().namespace);
    let others = others.filter(|other| other.kind() != RouteKind::Udp && !is_this(other));
    std::iter::once(route).chain(others).collect()
}

fn lost_to(route: &Route, rivals: &[&Route], service: &ServiceName, port: &Port<'_>) -> Option<String> {
    let governors = governors(rivals, service, port);
    let oldest = governors.first()?;
    let merges = route.kind() != RouteKind::Tcp && oldest.kind() == route.kind();
    let wins = merges || (oldest.kind() == route.kind() && oldest.name() == route.name());
    (!wins).then(|| format!("port {} ({} {})", port.number, oldest.kind().as_str(), oldest.name()))
}

fn resolved_refs(route: &Route, view: &dyn View) -> Verdict {
    let backends = route.rules().iter().flat_map(|rule| &rule.backends);
    let mut unresolved: Vec<_> =
        backends.filter_map(|backend| backend::resolve(route.kind(), backend, view).err()).collect();
    unresolved.dedup_by(|a, b| a.message == b.message);
    let messages: Vec<_> = unresolved.iter().map(|unresolved| unresolved.message.as_str()).collect();
    match unresolved.first() {
        Some(first) => Verdict::no(first.reason, &messages.join("; ")),
        None => Verdict::yes("ResolvedRefs", "all references are resolved"),
    }
}
