//! The lines of a watch, as Kubernetes writes them.

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;

use crate::answer::Refusal;
use crate::index::{Entry, Expired};

/// What a watcher is told of an object that was `before` and is `after`, as far as its query matches them. That it went is
/// told as of `version`.
pub fn put_change(events: &mut BytesMut, before: Option<&Entry>, after: Option<&Entry>, version: u64) {
    match (before, after) {
        (None, None) => {}
        (None, Some(after)) => put_entry(events, "ADDED", after, after.version),
        (Some(before), None) => put_entry(events, "DELETED", before, version),
        // Replaced: to its watchers the new one is another object.
        (Some(before), Some(after)) if before.uid() != after.uid() => {
            put_entry(events, "DELETED", before, version);
            put_entry(events, "ADDED", after, after.version);
        }
        (Some(_), Some(after)) => put_entry(events, "MODIFIED", after, after.version),
    }
}

/// One line, of an object as of `version`.
fn put_entry(events: &mut BytesMut, kind: &str, entry: &Entry, version: u64) {
    put_with(events, kind, |events| entry.text.put(version, events));
}

/// One line.
pub fn put(events: &mut BytesMut, kind: &str, object: &[u8]) {
    put_with(events, kind, |events| events.put_slice(object));
}

fn put_with(events: &mut BytesMut, kind: &str, object: impl FnOnce(&mut BytesMut)) {
    events.put_slice(b"{\"type\":\"");
    events.put_slice(kind.as_bytes());
    events.put_slice(b"\",\"object\":");
    object(events);
    events.put_slice(b"}\n");
}

/// The last line of a watcher who fell behind.
pub fn expired() -> Bytes {
    let refusal = Refusal::new(StatusCode::GONE, Expired.to_string());
    let mut event = BytesMut::new();
    put(&mut event, "ERROR", refusal.status().to_string().as_bytes());
    event.freeze()
}
