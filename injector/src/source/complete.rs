//! What an API server would have added to an object, made up stably for objects from files.
//!
//! Clients tell a replaced object from a changed one by its uid, and routes of equal rank are ordered by
//! their age, so these fields must neither be missing nor change when nothing did.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::{Key, Kind};
use crate::status::without_ours;

/// What is remembered of an object's text, so as to tell whether another says the same: of tens of thousands the text itself
/// would be too much.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    whole: u64,
    desired: u64,
    generation: i64,
    created: Value,
}

impl Written {
    /// Of a completed object.
    pub fn of(value: &Value) -> Self {
        let metadata = &value["metadata"];
        Self {
            whole: digest(value),
            desired: digest(&desired(value)),
            generation: metadata["generation"].as_i64().unwrap_or(1),
            created: metadata["creationTimestamp"].clone(),
        }
    }
}

/// Equal for what is equal. What differs, differs in this, too, but for a chance of one in 2^64.
fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

/// `value` with the metadata that an API server keeps; `previous` is what was written before this change.
pub fn complete(key: &Key, value: Value, previous: Option<&Written>, now: Timestamp) -> Value {
    let mut value = if matches!(key.kind, Kind::Route(_)) { without_ours(&value) } else { value };
    let generation = generation(&value, previous);
    let created = previous.map_or_else(|| json!(seconds(now)), |old| old.created.clone());
    let Some(metadata) = object_at(&mut value, "metadata") else { return value };
    for field in ["resourceVersion", "managedFields", "selfLink"] {
        metadata.remove(field);
    }
    forget_last_applied(metadata);
    if key.kind.namespaced() {
        metadata.insert("namespace".to_owned(), json!(*key.name.namespace));
    }
    default(metadata, "uid", || json!(uid(key)));
    default(metadata, "generation", || json!(generation));
    default(metadata, "creationTimestamp", || created);
    if key.kind == Kind::Pod
        && let Some(spec) = object_at(&mut value, "spec")
    {
        default(spec, "serviceAccountName", || json!("default"));
    }
    value
}

/// kubectl's copy of the whole manifest, with what was in it by mistake: it is for kubectl alone, and half of the size.
pub fn forget_last_applied(metadata: &mut Map<String, Value>) {
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

fn object_at<'v>(value: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    value.get_mut(field).and_then(Value::as_object_mut)
}

fn default(map: &mut Map<String, Value>, field: &str, make: impl FnOnce() -> Value) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), make());
    }
}

/// Kubernetes counts a generation with each change of anything but metadata and status.
fn generation(value: &Value, previous: Option<&Written>) -> i64 {
    let Some(previous) = previous else { return 1 };
    match digest(&desired(value)) == previous.desired {
        true => previous.generation,
        false => previous.generation.saturating_add(1),
    }
}

/// What of an object is its author's.
fn desired(value: &Value) -> Value {
    let mut map = value.as_object().cloned().unwrap_or_default();
    map.remove("metadata");
    map.remove("status");
    Value::Object(map)
}

/// RFC 3339 in whole seconds, as Kubernetes writes times.
pub fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// A UUID (RFC 9562, version 8) of the object's name. It only has to differ between names: FNV-1a will do.
fn uid(key: &Key) -> String {
    let text = key.to_string();
    let [high, low] =
        [0xcbf2_9ce4_8422_2325_u64, 0x6c62_272e_07bb_0142].map(|basis| fnv1a(basis, text.as_bytes()));
    let version = 0x8000 | (high & 0x0fff);
    let variant = 0x8000 | ((low >> 48) & 0x3fff);
    format!(
        "{:08x}-{:04x}-{version:04x}-{variant:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        low & 0xffff_ffff_ffff
    )
}

fn fnv1a(basis: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": port}]}})
    }

    #[test]
    fn nothing_is_made_up_anew_while_nothing_changes() {
        let key = Key::new(Kind::Service, "shop", "web");
        let first = complete(&key, service(80), None, Timestamp::UNIX_EPOCH);
        let again = complete(&key, service(80), Some(&Written::of(&first)), Timestamp::MAX);
        assert_eq!(again, first);
        assert_eq!(again["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_changed_spec_counts_a_generation() {
        let key = Key::new(Kind::Service, "shop", "web");
        let first = complete(&key, service(80), None, Timestamp::UNIX_EPOCH);
        let next = complete(&key, service(81), Some(&Written::of(&first)), Timestamp::UNIX_EPOCH);
        assert_eq!(next["metadata"]["generation"], 2);
        assert_eq!(next["metadata"]["uid"], first["metadata"]["uid"]);
    }

    #[test]
    fn what_the_manifest_says_is_kept() {
        let key = Key::new(Kind::Service, "shop", "web");
        let mut value = service(80);
        value["metadata"]["uid"] = json!("u-1");
        value["metadata"]["generation"] = json!(7);
        value["metadata"]["creationTimestamp"] = json!("2020-01-02T03:04:05Z");
        let done = complete(&key, value, None, Timestamp::UNIX_EPOCH);
        assert_eq!(done["metadata"]["uid"], "u-1");
        assert_eq!(done["metadata"]["generation"], 7);
        assert_eq!(done["metadata"]["creationTimestamp"], "2020-01-02T03:04:05Z");
    }

    #[test]
    fn what_only_other_programs_need_is_forgotten() {
        let key = Key::new(Kind::Service, "shop", "web");
        let applied = "kubectl.kubernetes.io/last-applied-configuration";
        let mut value = service(80);
        value["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        value["metadata"]["annotations"] = json!({applied: "{}", "note": "kept"});
        let done = complete(&key, value.clone(), None, Timestamp::UNIX_EPOCH);
        assert_eq!(done["metadata"]["annotations"], json!({"note": "kept"}));
        assert_eq!(done["metadata"].get("managedFields"), None);
        value["metadata"]["annotations"] = json!({applied: "{}"});
        let done = complete(&key, value, None, Timestamp::UNIX_EPOCH);
        assert_eq!(done["metadata"].get("annotations"), None);
    }

    #[test]
    fn different_names_have_different_uids() {
        let [web, api] = ["web", "api"].map(|name| uid(&Key::new(Kind::Service, "shop", name)));
        assert_ne!(web, api);
        assert_eq!(web.len(), 36);
    }
}
