//! One JSON object on one line, written from front to back without anything in between.

use std::io::Write as _;

use super::fields::Fields;

/// An object that is being written.
pub struct Object(Vec<u8>);

impl Object {
    /// An object without fields.
    pub fn new() -> Self {
        Self(Vec::with_capacity(768))
    }

    /// Seconds, to the microsecond.
    pub fn seconds(&mut self, key: &'static str, value: f64) {
        self.key(key);
        let _ = write!(self.0, "{value:.6}");
    }

    /// The line, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(if self.0.is_empty() { b"{}\n" } else { b"}\n" });
        self.0
    }

    fn key(&mut self, key: &'static str) {
        let before = if self.0.is_empty() { '{' } else { ',' };
        let _ = write!(self.0, "{before}\"{key}\":");
    }
}

impl Fields for Object {
    /// Control characters are escaped.
    fn put_text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        // Writing to memory does not fail, and a text is always JSON.
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn put_number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        let _ = write!(self.0, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_the_values_hold() {
        let mut object = Object::new();
        object.text("url.path", "/a\"\n\u{1b}[31m\u{7f}\\");
        object.text("nothing", "");
        object.number("n", Some(42_u64));
        object.seconds("s", 0.001_234_567);
        object.bounded("cut", "aäb", 2);
        let line = String::from_utf8(object.finish()).expect("UTF-8");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\u{1b}'));
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            read,
            serde_json::json!({ "url.path": "/a\"\n\u{1b}[31m\u{7f}\\", "n": 42, "s": 0.001_235, "cut": "a" })
        );
    }
}
