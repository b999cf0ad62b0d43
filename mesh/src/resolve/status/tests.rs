use super::*;
use crate::resolve::verdicts;
use crate::testing::World;
use proptest::prelude::*;

const NOW: &str = "2026-01-02T03:04:05Z";

/// The verdict on a route with one parent.
fn judged(accepted: bool) -> Vec<ParentVerdict> {
    let rules = if accepted { "" } else { "{timeouts: {request: 1s}}" };
    let world = World::new(&format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: web, namespace: shop}}, spec: {{ports: [{{port: 80}}]}}}}
---
{{kind: HTTPRoute, apiVersion: v1, metadata: {{name: r, namespace: shop}},
  spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{rules}]}}}}"
    ));
    verdicts(world.route("shop/r"), &world)
}

#[test]
fn a_new_status_says_everything() {
    let planned = status_parents(&[], &judged(true), 3, NOW).unwrap();
    let entry = &planned[0];
    assert_eq!(entry["controllerName"], CONTROLLER_NAME);
    let of = |ix: usize| &entry["conditions"][ix];
    assert_eq!(
        (&of(0)["type"], &of(0)["status"], &of(0)["reason"]),
        (&json!("Accepted"), &json!("True"), &json!("Accepted"))
    );
    assert_eq!((&of(1)["type"], &of(1)["observedGeneration"]), (&json!("ResolvedRefs"), &json!(3)));
    assert_eq!(of(1)["lastTransitionTime"], NOW);
}

#[test]
fn the_time_stays_until_the_status_changes() {
    let before = status_parents(&[], &judged(true), 3, NOW).unwrap();
    let renewed = status_parents(&before, &judged(true), 4, "later").unwrap();
    assert_eq!(renewed[0]["conditions"][0]["lastTransitionTime"], NOW);
    let refused = status_parents(&renewed, &judged(false), 5, "later").unwrap();
    assert_eq!(refused[0]["conditions"][0]["lastTransitionTime"], "later");
    assert_eq!(refused[0]["conditions"][1]["lastTransitionTime"], NOW);
}

#[test]
fn a_newer_generation_is_never_overwritten() {
    let newer = status_parents(&[], &judged(true), 4, NOW).unwrap();
    assert_eq!(status_parents(&newer, &judged(false), 3, "later"), None);
}

#[test]
fn others_entries_stay_where_they_are() {
    let other = json!({"controllerName": "example.com/other", "parentRef": judged(true)[0].parent.to_json(), "conditions": []});
    let planned = status_parents(std::slice::from_ref(&other), &judged(true), 3, NOW).unwrap();
    assert_eq!((planned.len(), &planned[0]), (2, &other));
}

#[test]
fn an_entry_of_a_parent_that_is_gone_goes() {
    let ours = status_parents(&[], &judged(true), 3, NOW).unwrap();
    assert_eq!(status_parents(&ours, &[], 3, NOW), Some(vec![]));
    assert_eq!(status_parents(&[], &[], 3, NOW), None);
}

fn entry() -> impl Strategy<Value = Value> {
    let controller = prop::sample::select(vec![CONTROLLER_NAME, "example.com/other"]);
    let parent =
        prop::sample::select(vec![judged(true)[0].parent.to_json(), json!({"name": "gw"}), json!(null)]);
    let status = prop::sample::select(vec!["True", "False", "Unknown", ""]);
    (controller, parent, status, 0i64..6).prop_map(|(controller, parent, status, generation)| {
        let condition = json!({"type": "Accepted", "status": status, "observedGeneration": generation, "lastTransitionTime": "t"});
        json!({"controllerName": controller, "parentRef": parent, "conditions": [condition]})
    })
}

proptest! {
    #[test]
    fn planning_after_applying_plans_nothing(existing in prop::collection::vec(entry(), 0..5), ok: bool, generation in 0i64..6) {
        let verdicts = judged(ok);
        let applied = status_parents(&existing, &verdicts, generation, NOW).unwrap_or_else(|| existing.clone());
        prop_assert_eq!(status_parents(&applied, &verdicts, generation, "later"), None);
        let others = |parents: &[Value]| parents.iter().filter(|p| p["controllerName"] != CONTROLLER_NAME).cloned().collect::<Vec<_>>();
        prop_assert_eq!(others(&applied), others(&existing));
    }
}
