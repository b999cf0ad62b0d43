//! The one decision per request: a value, which the proxy carries out.

mod location;
mod paths;

pub use paths::suspicious_path;

use crate::route::{Action, BackendIx, Failure, Filters, HttpRule, HttpTable, Redirect, RequestHead, Split};
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
    /// The client is sent elsewhere. The rule's response header filter applies here, too.
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

/// Decides a request. `random` should be uniform over all 64 bits. Nothing is allocated but a redirect's Location, and the
/// joined value of a header that is repeated and that a rule asks for.
pub fn decide<'t>(table: &'t HttpTable, head: &RequestHead<'_>, random: u64) -> Decision<'t> {
    let Some((rule, matched_prefix)) = table.find_match(head) else {
        return Decision::Fail { rule: None, failure: Failure::NoRuleMatched };
    };
    match &rule.action {
        Action::Forward(split) => forward(rule, matched_prefix, split, random),
        Action::Redirect(redirect) => send_elsewhere(rule, matched_prefix, redirect, head),
        Action::Fail(failure) => Decision::Fail { rule: Some(rule), failure: *failure },
    }
}

fn forward<'t>(rule: &'t HttpRule, matched_prefix: usize, split: &'t Split, random: u64) -> Decision<'t> {
    let share = split.pick(random);
    match share.target {
        Ok(backend) => Decision::Forward { rule, matched_prefix, backend, backend_filters: &share.filters },
        Err(failure) => Decision::Fail { rule: Some(rule), failure },
    }
}

fn send_elsewhere<'t>(
    rule: &'t HttpRule,
    matched_prefix: usize,
    redirect: &Redirect,
    head: &RequestHead<'_>,
) -> Decision<'t> {
    match HeaderValue::try_from(location::location(redirect, head, matched_prefix)) {
        Ok(location) => Decision::Redirect { rule, status: redirect.status, location },
        Err(_) => Decision::Fail { rule: Some(rule), failure: Failure::UnusableRequest },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Governing;
    use crate::testing::{Request, World};

    fn table(rules: &str) -> HttpTable {
        let world = World::new(&format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: web, namespace: shop}}, spec: {{ports: [{{port: 80}}]}}}}
---
{{kind: HTTPRoute, apiVersion: v1, metadata: {{name: r, namespace: shop}}, spec: {{
  parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{rules}]}}}}"
        ));
        let port = world.table("shop/web", "shop").ports.remove(&80).unwrap();
        let Governing::Http { table, .. } = port.governing else { panic!("{port:?}") };
        table
    }

    #[test]
    fn a_forwarded_request_knows_its_prefix_and_its_share() {
        let table = table(
            "{matches: [{path: {value: /api/}}], backendRefs: [{name: web, port: 80, filters: [
              {type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]}]}",
        );
        let decision = decide(&table, &Request::new("GET /api/a", &[]).head(), 0);
        let Decision::Forward { matched_prefix, backend_filters, .. } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(matched_prefix, "/api".len());
        assert!(backend_filters.request_headers.is_some());
    }

    #[test]
    fn a_redirect_is_answered_with_its_location() {
        let table = table(
            "{matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301,
              hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}",
        );
        let decision = decide(&table, &Request::new("GET /old/a?b", &[]).head(), 0);
        let Decision::Redirect { status, location, .. } = decision else { panic!("{decision:?}") };
        assert_eq!((status.as_u16(), location.to_str().unwrap()), (301, "http://example.org/new/a?b"));
    }

    #[test]
    fn what_no_rule_matches_is_not_found() {
        let table = table("{matches: [{path: {value: /a}}]}");
        let decision = decide(&table, &Request::new("GET /b", &[]).head(), 0);
        assert!(matches!(decision, Decision::Fail { rule: None, failure: Failure::NoRuleMatched }));
        assert_eq!(Failure::NoRuleMatched.status(), StatusCode::NOT_FOUND);
    }
}
