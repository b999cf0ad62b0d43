//! What a route's status must say: the same rules as the table's, told to the route's author.

use super::bind::{MAX_TABLE_EXPRESSIONS, check_parent, fits};
use super::contest::{Contest, ContestedPort};
use super::{View, backend};
use crate::names::ServiceName;
use crate::route::{Parent, ParentRef, Route};
use std::collections::HashMap;

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

/// The verdicts on a single route. Many of them want one [`Judge`] together.
pub fn verdicts(route: &Route, view: &dyn View) -> Vec<ParentVerdict> {
    Judge::new(view).verdicts(route)
}

/// Judges the routes of a view, one after another. Who governs a Service's ports it finds out once: a Service can have a
/// thousand routes, and each can name it for every one of its ports.
pub struct Judge<'v> {
    view: &'v dyn View,
    /// The contests for each Service that was asked for, by the namespace of the routes.
    contests: HashMap<ServiceName, HashMap<&'v str, Contest<'v>>>,
}

impl<'v> Judge<'v> {
    /// One that knows nothing yet.
    pub fn new(view: &'v dyn View) -> Self {
        Self { view, contests: HashMap::new() }
    }

    /// The verdicts on a route, one for each parent that is a Service. Gateways are not ours to judge. A route that the
    /// view does not have, or has in another version, is judged as if it were there.
    pub fn verdicts(&mut self, route: &'v Route) -> Vec<ParentVerdict> {
        let (refused, resolved_refs) = (refused(route), resolved_refs(route, self.view));
        let mut verdicts: Vec<ParentVerdict> = Vec::new();
        for Parent { reference, service } in route.parents() {
            if verdicts.iter().all(|earlier| earlier.parent != *reference) {
                let accepted = refused.clone().unwrap_or_else(|| self.accepted(route, reference, service));
                verdicts.push(ParentVerdict {
                    parent: reference.clone(),
                    accepted,
                    resolved_refs: resolved_refs.clone(),
                });
            }
        }
        verdicts
    }

    fn accepted(&mut self, route: &'v Route, parent: &ParentRef, name: &ServiceName) -> Verdict {
        let view = self.view;
        let Some(service) = view.service(name) else {
            return no_parent(&format!("Service {name} does not exist"));
        };
        if let Err(why) = check_parent(service) {
            return no_parent(&format!("Service {name} cannot be a parent: {why}"));
        }
        let contests = self.contests.entry(name.clone());
        let contests = contests.or_insert_with(|| Contest::by_namespace(service, name, view));
        match contests.get(&*route.name().namespace).filter(|contest| contest.has(route)) {
            Some(contest) => outcome(route, parent, name, contest),
            None => outcome(route, parent, name, &Contest::with(route, service, name, view)),
        }
    }
}

/// The verdict on a route that is refused for what it says, whatever its parents are.
fn refused(route: &Route) -> Option<Verdict> {
    let messages: Vec<_> = route.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    route.refusals.first().map(|refusal| Verdict::no(refusal.reason, &messages.join("; ")))
}

fn no_parent(why: &str) -> Verdict {
    Verdict::no("NoMatchingParent", why)
}

/// What the contest for a Service says of the ports that a parentRef means.
fn outcome(route: &Route, parent: &ParentRef, name: &ServiceName, contest: &Contest<'_>) -> Verdict {
    let meant: Vec<_> = contest.ports().iter().filter(|at| at.port.is_meant_by(parent)).collect();
    if meant.is_empty() {
        return no_parent(&format!("Service {name} has no TCP port that the parentRef names"));
    }
    let fitting: Vec<_> = meant.into_iter().filter(|at| fits(route.kind(), at.port.declared())).collect();
    if fitting.is_empty() {
        let kind = route.kind().as_str();
        return no_parent(&format!(
            "by its appProtocol, Service {name} carries nothing here that is for kind {kind}"
        ));
    }
    govern(route, name, &fitting)
}

/// Whether the route governs the ports that it could.
fn govern(route: &Route, name: &ServiceName, ports: &[&ContestedPort<'_>]) -> Verdict {
    let lost: Vec<String> = ports.iter().filter_map(|at| Some(loss(at, at.lost_to(route)?))).collect();
    if lost.len() == ports.len() {
        return Verdict::no(
            "Conflicted",
            &format!("other routes of Service {name} govern {}", lost.join(", ")),
        );
    }
    if ports.iter().any(|at| at.has_crowded_out(route)) {
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

fn loss(at: &ContestedPort<'_>, winner: &Route) -> String {
    format!("port {} ({} {})", at.port.number, winner.kind().as_str(), winner.name())
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
