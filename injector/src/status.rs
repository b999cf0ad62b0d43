//! Route status: what `mesh::resolve` says of a route, kept with the object, and what of it is to be written.
//!
//! Pure: the present object and the verdicts in, the new object out, or nothing where nothing changes.

use mesh::contract::CONTROLLER_NAME;
use mesh::resolve::{ParentVerdict, status_parents};
use serde_json::{Value, json};

/// `value`, a route from its source, with the entries that are ours: its own, or those of `old` if it has none (a file
/// never does). Only so can conditions keep the time of their last transition.
pub fn carry_over(value: &Value, old: Option<&Value>) -> Value {
    if parents(value).iter().any(is_ours) {
        return with_parents(value, parents(value));
    }
    let ours = old.map(parents).unwrap_or_default().iter().filter(|entry| is_ours(entry));
    let parents: Vec<Value> = parents(value).iter().chain(ours).cloned().collect();
    with_parents(value, &parents)
}

/// `value` without the entries that are ours: what a file says of them is not what we said.
pub fn without_ours(value: &Value) -> Value {
    let others: Vec<Value> = parents(value).iter().filter(|entry| !is_ours(entry)).cloned().collect();
    with_parents(value, &others)
}

/// The route with the status that its verdicts give it; nothing if it has it already.
pub fn plan(value: &Value, verdicts: &[ParentVerdict], now: &str) -> Option<Value> {
    let generation = value["metadata"]["generation"].as_i64().unwrap_or_default();
    let planned = status_parents(parents(value), verdicts, generation, now)?;
    Some(with_parents(value, &planned))
}

/// The `status.parents` to write, if those at the source (`present`) are not those that the route should have.
pub fn to_write<'v>(wanted: &'v Value, present: &Value) -> Option<&'v [Value]> {
    (parents(wanted) != parents(present)).then(|| parents(wanted))
}

fn parents(value: &Value) -> &[Value] {
    let parents = value.get("status").and_then(|status| status.get("parents"));
    parents.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

fn with_parents(value: &Value, parents: &[Value]) -> Value {
    let parents = json!(parents);
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        match parents.as_array().is_none_or(Vec::is_empty) {
            true => drop(object.remove("status")),
            false => drop(object.insert("status".to_owned(), json!({"parents": parents}))),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(controllers: &[&str]) -> Value {
        let parents: Vec<Value> = controllers.iter().map(|name| json!({"controllerName": name})).collect();
        with_parents(&json!({"spec": {}}), &parents)
    }

    #[track_caller]
    fn check(value: &[&str], old: &[&str], expected: &[&str]) {
        assert_eq!(carry_over(&route(value), Some(&route(old))), route(expected));
    }

    #[test]
    fn what_the_source_says_of_us_outranks_what_we_remember() {
        check(&[CONTROLLER_NAME], &["a", CONTROLLER_NAME, CONTROLLER_NAME], &[CONTROLLER_NAME]);
        check(&["b"], &["a", CONTROLLER_NAME], &["b", CONTROLLER_NAME]);
        check(&[], &["a"], &[]);
    }

    #[test]
    fn only_what_differs_is_written() {
        assert_eq!(to_write(&route(&["a"]), &route(&["a"])), None);
        assert_eq!(to_write(&route(&[]), &json!({})), None);
        let wanted = route(&["a", CONTROLLER_NAME]);
        assert_eq!(to_write(&wanted, &route(&["a"])).map(<[Value]>::len), Some(2));
        assert_eq!(to_write(&route(&[]), &route(&["a"])), Some([].as_slice()));
    }

    #[test]
    fn a_files_word_of_us_is_not_ours() {
        assert_eq!(without_ours(&route(&["a", CONTROLLER_NAME])), route(&["a"]));
    }
}
