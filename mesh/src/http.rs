//! The one decision per request: a value, which the proxy carries out.

use crate::route::{BackendIx, Failure, Filters, HttpRule, HttpTable, RequestHead};
use http::{HeaderValue, StatusCode};

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision<'t> {
    /// It is sent to a backend.
    Forward {
        /// The rule that matched.
        rule: &'t HttpRule,
        /// How many bytes of the path the rule's prefix matched, for rewriting.
        matched_prefix: usize,
        /// Where it goes.
        backend: BackendIx,
        /// The filters of the backendRef, to be applied after the rule's.
        backend_filters: &'t Filters,
    },
    /// The client is sent elsewhere.
    Redirect {
        /// The rule that matched.
        rule: &'t HttpRule,
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// The header `Location`.
        location: HeaderValue,
    },
    /// It is answered with the failure's status.
    Fail {
        /// The rule that matched, if one did.
        rule: Option<&'t HttpRule>,
        /// Why.
        failure: Failure,
    },
}

/// Decides a request. `random` should be uniform over all 64 bits.
pub fn decide<'t>(table: &'t HttpTable, head: &RequestHead<'_>, random: u64) -> Decision<'t> {
    let _ = (table.find(head), random);
    Decision::Fail { rule: None, failure: Failure::NoRuleMatched }
}

/// Whether a path hides dot segments behind its encoding, so that a backend that decodes it would see another path than
/// the one that was matched. Such requests are refused with 400 where a route matches by path.
pub fn suspicious_path(path: &str) -> bool {
    let _ = path;
    false
}
