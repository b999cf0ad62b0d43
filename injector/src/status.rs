//! Route status: what `mesh::resolve` says of a route, kept with the object.
//!
//! Pure: the present object and the verdicts in, the new object out, or nothing where nothing changes.

use mesh::contract::CONTROLLER_NAME;
use mesh::resolve::{View, status_parents, verdicts};
use mesh::route::Route;
use serde_json::{Value, json};

/// `value`, a route from its source, with the entries that are ours as they were in `old`:
/// only so can conditions keep the time of their last transition.
pub fn carry_over(value: &Value, old: Option<&Value>) -> Value {
    let ours = old.map(parents).unwrap_or_default().iter().filter(|entry| is_ours(entry));
    let others = parents(value).iter().filter(|entry| !is_ours(entry));
    let parents: Vec<Value> = others.chain(ours).cloned().collect();
    with_parents(value, &parents)
}

/// The route with the status that it has earned; nothing if it has it already.
pub fn plan(value: &Value, route: &Route, view: &dyn View, now: &str) -> Option<Value> {
    let generation = value["metadata"]["generation"].as_i64().unwrap_or_default();
    let planned = status_parents(parents(value), &verdicts(route, view), generation, now)?;
    Some(with_parents(value, &planned))
}

fn parents(value: &Value) -> &[Value] {
    let parents = value.get("status").and_then(|status| status.get("parents"));
    parents.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

fn with_parents(value: &Value, parents: &[Value]) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        match parents.is_empty() {
            true => drop(object.remove("status")),
            false => drop(object.insert("status".to_owned(), json!({"parents": parents}))),
        }
    }
    value
}
