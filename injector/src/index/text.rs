//! An object's JSON as it is served. Its version comes first in it, so that another one can be put in its place without
//! reading the rest: an object is written once, when it changes.

use bytes::Bytes;
use serde_json::{Map, Value};

const HEAD: &str = "{\"metadata\":{\"resourceVersion\":\"";

/// The JSON of `value` as of `version`.
pub fn whole(value: &Value, version: u64) -> Bytes {
    let metadata = fields(value.get("metadata").and_then(Value::as_object), "resourceVersion");
    let others = fields(value.as_object(), "metadata");
    with(version, format!("\"{metadata}}}{others}}}").as_bytes())
}

/// `json`, which is as of `version`, as of `another`.
pub fn at(json: &[u8], version: u64, another: u64) -> Bytes {
    with(another, rest(json, version))
}

/// What follows the version in `json`, which is as of `version`: everything that the object says.
pub fn rest(json: &[u8], version: u64) -> &[u8] {
    json.get(HEAD.len() + version.to_string().len()..).unwrap_or_default()
}

fn with(version: u64, rest: &[u8]) -> Bytes {
    Bytes::from([HEAD.as_bytes(), version.to_string().as_bytes(), rest].concat())
}

/// The fields of `map` but one, each with a comma before it.
fn fields(map: Option<&Map<String, Value>>, without: &str) -> String {
    let others = map.into_iter().flatten().filter(|(name, _)| *name != without);
    others.map(|(name, value)| format!(",{}:{value}", Value::from(name.as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(value: &Value, expected: &Value) {
        let text = whole(value, 7);
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), *expected);
        let later = whole(value, 1_000_000);
        assert_eq!(at(&later, 1_000_000, 7), text);
        assert_eq!(rest(&later, 1_000_000), rest(&text, 7));
    }

    #[test]
    fn a_version_is_put_in_and_everything_else_stays() {
        let metadata = json!({"name": "a", "labels": {"a\"b": "c\nd"}});
        let value = json!({"kind": "Pod", "metadata": metadata, "data": {"\u{1}": 1}});
        let mut expected = value.clone();
        expected["metadata"]["resourceVersion"] = json!("7");
        check(&value, &expected);
    }

    #[test]
    fn a_version_that_was_there_is_replaced() {
        let expected = json!({"metadata": {"resourceVersion": "7"}});
        check(&json!({"metadata": {"resourceVersion": "x"}}), &expected);
        check(&json!({"metadata": {}}), &expected);
        check(&json!({}), &expected);
    }
}
