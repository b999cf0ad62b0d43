//! An object's JSON as it is served. Its version comes first in it, so that another one can be put in its place without
//! reading the rest: an object is written once, when it changes, and the rest is shared.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

const HEAD: &str = "{\"metadata\":{\"resourceVersion\":\"";

/// The JSON of an object but for its version.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    /// That of `value`; fields are in the order of their names, so what says the same is the same text.
    pub fn of(value: &Value) -> Self {
        let metadata = fields(value.get("metadata").and_then(Value::as_object), "resourceVersion");
        let others = fields(value.as_object(), "metadata");
        Self(Bytes::from(format!("\"{metadata}}}{others}}}").into_bytes().into_boxed_slice()))
    }

    /// Writes all of it, as of `version`.
    pub fn put(&self, version: u64, out: &mut BytesMut) {
        out.put_slice(HEAD.as_bytes());
        out.put_slice(version.to_string().as_bytes());
        out.put_slice(&self.0);
    }

    /// All of it, as of `version`.
    pub fn whole(&self, version: u64) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD.len() + 20 + self.0.len());
        self.put(version, &mut out);
        out.freeze()
    }

    /// The object that it is of; an empty one if it is of none.
    pub fn read<T: DeserializeOwned + Default>(&self) -> T {
        serde_json::from_slice(&self.whole(0)).unwrap_or_default()
    }

    /// Bytes in memory.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(out)
    }
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
        let text = Text::of(value);
        assert_eq!(serde_json::from_slice::<Value>(&text.whole(7)).unwrap(), *expected);
        assert_eq!(text.read::<Value>()["metadata"]["resourceVersion"], "0");
        assert_eq!(Text::of(&serde_json::from_slice(&text.whole(1_000_000)).unwrap()), text);
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
