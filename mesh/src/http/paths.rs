//! Paths that say one thing to the mesh and another to a server that decodes them.

/// Whether a path hides dot segments behind its encoding (`/a/%2e%2e/b`, `/a/..%2fb`), so that a server that decodes it
/// would see another path than the one that was matched. Such requests are refused with 400 where a route matches by
/// path. Plain `%2F`, `//` and `;` are left alone, and plain dot segments too: both sides read those alike.
pub fn suspicious_path(path: &str) -> bool {
    // Nothing is hidden without one of these, which most paths have not.
    path.bytes().any(|byte| matches!(byte, b'%' | b'\\' | b';')) && hides_dots(path)
}

fn hides_dots(path: &str) -> bool {
    let mut segment = Segment::default();
    let mut bytes = path.as_bytes();
    while let Some((byte, encoded, rest)) = next(bytes) {
        bytes = rest;
        match byte {
            b'/' | b'\\' => {
                if segment.is_hidden_dots(encoded) {
                    return true;
                }
                segment = Segment { encoded_before: encoded, ..Segment::default() };
            }
            // What follows a semicolon are parameters: `/..;x=1/` is `/../` to some servers.
            b';' => segment.ended = true,
            b'.' => segment.dot(encoded),
            _ => segment.other(),
        }
    }
    segment.is_hidden_dots(false)
}

/// The part of a path between slashes, encoded ones included.
#[derive(Default)]
struct Segment {
    dots: u8,
    others: bool,
    /// An encoded dot, or parameters, which hide what the segment is.
    hidden: bool,
    encoded_before: bool,
    ended: bool,
}

impl Segment {
    fn dot(&mut self, encoded: bool) {
        if !self.ended {
            self.dots = self.dots.saturating_add(1);
            self.hidden |= encoded;
        }
    }

    fn other(&mut self) {
        self.others |= !self.ended;
    }

    fn is_hidden_dots(&self, encoded_after: bool) -> bool {
        let dots = !self.others && (1..=2).contains(&self.dots);
        dots && (self.hidden || self.encoded_before || encoded_after || self.ended)
    }
}

/// The next byte, decoded once, and whether it was encoded.
fn next(bytes: &[u8]) -> Option<(u8, bool, &[u8])> {
    match bytes {
        [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Some((high * 16 + low, true, rest)),
            _ => Some((b'%', false, bytes.get(1..)?)),
        },
        [first, rest @ ..] => Some((*first, *first == b'\\', rest)),
        [] => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(path: &str, suspicious: bool) {
        assert_eq!(suspicious_path(path), suspicious, "{path}");
    }

    #[test]
    fn encoded_dot_segments_are_suspicious() {
        for path in
            ["/%2e%2e/x", "/a/%2E%2e", "/a/.%2e/b", "/%2e", "/%2e/x", "/a/..%2fb", "/a%2f../b", "/a%2F%2e%2e"]
        {
            check(path, true);
        }
    }

    #[test]
    fn backslashes_and_parameters_hide_dot_segments_too() {
        for path in ["/a/..\\b", "/a/..%5cb", "/a/..;/b", "/a/..;x=1/b", "/a\\..\\b"] {
            check(path, true);
        }
    }

    #[test]
    fn other_encodings_are_left_alone() {
        for path in [
            "/",
            "*",
            "",
            "/a%2Fb",
            "/a//b",
            "/a;v=1/b",
            "/a.b",
            "/a%2eb",
            "/...",
            "/%2e%2e%2e",
            "/a%",
            "/a%2",
        ] {
            check(path, false);
        }
    }

    #[test]
    fn plain_dot_segments_hide_nothing() {
        check("/a/../b", false);
        check("/a/./b", false);
    }

    proptest! {
        #[test]
        fn encoding_a_dot_segment_never_goes_unseen(before in "[a-z%/]{0,6}", mask in 1u8..4, after in "(/[a-z]{0,3})?") {
            let dot = |bit: u8| if mask & bit != 0 { "%2e" } else { "." };
            let path = format!("/{before}/{}{}{after}", dot(1), dot(2));
            prop_assert!(suspicious_path(&path));
        }

        #[test]
        fn what_nothing_can_hide_in_hides_nothing(path in "[/.a-]{0,12}") {
            prop_assert!(!hides_dots(&path));
        }

        #[test]
        fn any_text_is_judged(path: String) {
            suspicious_path(&path);
        }
    }
}
