//! What a route's status must say.

use super::View;
use crate::route::{ParentRef, Route};

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

/// The verdicts on a route, one for each parent that is a Service.
pub fn verdicts(route: &Route, view: &dyn View) -> Vec<ParentVerdict> {
    let _ = (route, view);
    Vec::new()
}
