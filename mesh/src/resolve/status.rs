//! The plan of a status write. `status.parents` is one list that several controllers share: ours change, others stay.

use super::{ParentVerdict, Verdict};
use crate::contract::CONTROLLER_NAME;
use serde_json::{Value, json};

/// The new `status.parents`, or `None` when nothing has to change. `now` is RFC 3339.
///
/// An entry of ours that has seen a newer generation is kept as it is: another instance knows more.
pub fn status_parents(
    existing: &[Value],
    verdicts: &[ParentVerdict],
    generation: i64,
    now: &str,
) -> Option<Vec<Value>> {
    // Each parent is compared with every entry: as JSON it is made once.
    let judged: Vec<_> = verdicts.iter().map(|verdict| (verdict.parent.to_json(), verdict)).collect();
    let mut planned: Vec<Value> = Vec::with_capacity(existing.len() + judged.len());
    for entry in existing {
        let found = judged.iter().find(|(parent, _)| entry["parentRef"] == *parent);
        match found {
            _ if !is_ours(entry) || is_newer(entry, generation) => planned.push(entry.clone()),
            Some((parent, verdict)) if !has_entry(&planned, parent) => {
                planned.push(renewed(entry, parent, verdict, generation, now));
            }
            Some(_) | None => {}
        }
    }
    for (parent, verdict) in &judged {
        if !has_entry(&planned, parent) {
            planned.push(renewed(&Value::Null, parent, verdict, generation, now));
        }
    }
    (planned != existing).then_some(planned)
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

fn is_newer(entry: &Value, generation: i64) -> bool {
    conditions(entry).any(|condition| condition["observedGeneration"].as_i64() > Some(generation))
}

fn has_entry(planned: &[Value], parent: &Value) -> bool {
    planned.iter().any(|entry| is_ours(entry) && entry["parentRef"] == *parent)
}

fn conditions(entry: &Value) -> impl Iterator<Item = &Value> {
    entry["conditions"].as_array().into_iter().flatten()
}

/// The entry that says what the verdict says.
fn renewed(entry: &Value, parent: &Value, verdict: &ParentVerdict, generation: i64, now: &str) -> Value {
    let condition = |kind: &str, verdict: &Verdict| {
        let before = conditions(entry).find(|condition| condition["type"] == kind);
        condition(kind, verdict, generation, before, now)
    };
    json!({
        "parentRef": parent,
        "controllerName": CONTROLLER_NAME,
        "conditions": [
            condition("Accepted", &verdict.accepted),
            condition("ResolvedRefs", &verdict.resolved_refs),
        ],
    })
}

/// `lastTransitionTime` is when the *status* last changed, whatever else does.
fn condition(kind: &str, verdict: &Verdict, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let status = if verdict.status { "True" } else { "False" };
    let kept = before.filter(|before| before["status"] == status);
    let since = kept.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
    json!({
        "type": kind,
        "status": status,
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

#[cfg(test)]
mod tests;
