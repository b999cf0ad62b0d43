//! The objects of a world, as an API server would hold them, and their copies in the directory that the control
//! plane follows: one file each, renamed into place. Secrets stay here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::manifest::Key;
use crate::paths::{Place, write_atomically};

/// All objects, by key.
#[derive(Debug)]
pub struct Store {
    objects: BTreeMap<Key, Value>,
    directory: PathBuf,
    staging: PathBuf,
}

impl Store {
    /// An empty store that writes to the world's directory.
    pub fn new(place: &Place) -> Self {
        Self { objects: BTreeMap::new(), directory: place.manifests(), staging: place.staging() }
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// An object with its type.
    pub fn typed<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        serde_json::from_value(self.get(key)?.clone()).ok()
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> impl Iterator<Item = (&Key, &Value)> {
        let first = Key::new(kind, "", "");
        let kind = kind.to_owned();
        self.objects.range(first..).take_while(move |(key, _)| key.kind == kind)
    }

    /// All objects of a kind, with their type; what does not fit it is left out.
    pub fn typed_list<T: DeserializeOwned>(&self, kind: &str) -> Vec<T> {
        self.list(kind).filter_map(|(_, object)| serde_json::from_value(object.clone()).ok()).collect()
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// Adds or replaces an object: keeps its UID and first time, counts its generation when it differs in more than
    /// its status. Returns whether anything changed. A UID that the object brings along makes it a new object.
    pub fn put(&mut self, mut object: Value) -> io::Result<bool> {
        let key = Key::of(&object);
        let old = self.objects.get(&key);
        finish_metadata(&mut object, old);
        if old == Some(&object) {
            return Ok(false);
        }
        self.write(key, object)?;
        Ok(true)
    }

    /// Makes an object what it was before, generation and all.
    pub fn restore(&mut self, key: &Key, before: Option<Value>) -> io::Result<()> {
        match before {
            Some(object) => self.write(key.clone(), object),
            None => self.remove(key).map(drop),
        }
    }

    fn write(&mut self, key: Key, object: Value) -> io::Result<()> {
        if key.kind != "Secret" {
            let bytes = serde_json::to_vec_pretty(&object)?;
            write_atomically(&self.staging, &self.directory.join(key.file_name()), &bytes)?;
        }
        self.objects.insert(key, object);
        Ok(())
    }

    /// Removes an object; returns what it was.
    pub fn remove(&mut self, key: &Key) -> io::Result<Option<Value>> {
        match fs::remove_file(self.directory.join(key.file_name())) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        Ok(self.objects.remove(key))
    }

    /// The entries of a ConfigMap, text and binary.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let map: ConfigMap = self.typed(&Key::new("ConfigMap", namespace, name))?;
        let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
        Some(text.chain(map.binary_data.into_iter().flatten().map(|(k, ByteString(v))| (k, v))).collect())
    }

    /// The entries of a Secret, decoded.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret: Secret = self.typed(&Key::new("Secret", namespace, name))?;
        let data = secret.data.into_iter().flatten().map(|(k, ByteString(v))| (k, v));
        Some(data.chain(secret.string_data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()))).collect())
    }
}

fn finish_metadata(object: &mut Value, old: Option<&Value>) {
    let meta = |object: &Value, field: &str| object["metadata"].get(field).filter(|v| !v.is_null()).cloned();
    let same = old.filter(|old| meta(object, "uid").is_none_or(|uid| meta(old, "uid") == Some(uid)));
    let fresh = |field: &str| match field {
        "uid" => json!(new_uid()),
        "creationTimestamp" => json!(now()),
        _ => json!(1),
    };
    for field in ["uid", "creationTimestamp", "generation"] {
        let value = same.and_then(|old| meta(old, field)).or_else(|| meta(object, field));
        object["metadata"][field] = value.unwrap_or_else(|| fresh(field));
    }
    if let Some(old) = same.filter(|old| desired(old) != desired(object)) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

/// An object without what is not its author's.
pub fn desired(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion", "managedFields"] {
            meta.remove(field);
        }
    }
    object
}

/// A random UUID (version 4), from the kernel.
pub fn new_uid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").map(|uuid| uuid.trim().to_owned()).unwrap_or_default()
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
}

/// The time as Kubernetes writes it.
pub fn now() -> String {
    rfc3339(unix_now())
}

/// RFC 3339 in UTC, by the days-from-civil algorithm turned round (Howard Hinnant).
fn rfc3339(unix: u64) -> String {
    let (days, second) = (unix / 86_400 + 719_468, unix % 86_400);
    let (era, doe) = (days / 146_097, days % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("made");
            path
        };
        let store = Store { objects: BTreeMap::new(), directory: at("m"), staging: at("s") };
        (dir, store)
    }

    fn map(value: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "a", "name": "b"}, "data": {"k": value}})
    }

    #[test]
    fn generation_counts_changes_and_the_uid_stays() {
        let (_dir, mut store) = store();
        let key = Key::new("ConfigMap", "a", "b");
        assert!(store.put(map("1")).expect("put"));
        let uid = store.get(&key).expect("there")["metadata"]["uid"].clone();
        assert!(!store.put(map("1")).expect("put"));
        assert!(store.put(map("2")).expect("put"));
        let meta = &store.get(&key).expect("there")["metadata"];
        assert_eq!((&meta["uid"], &meta["generation"]), (&uid, &json!(2)));
    }

    #[test]
    fn a_secret_is_never_written_to_the_directory() {
        let (_dir, mut store) = store();
        let mut secret = map("1");
        secret["kind"] = json!("Secret");
        secret["data"] = json!({"k": "aGk="});
        store.put(secret).expect("put");
        assert_eq!(fs::read_dir(&store.directory).expect("read").count(), 0);
        assert_eq!(store.secret("a", "b"), Some(BTreeMap::from([("k".to_owned(), b"hi".to_vec())])));
    }

    #[test]
    fn time_is_written_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_790_000_001), "2026-09-21T14:13:21Z");
    }
}
