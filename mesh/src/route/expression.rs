//! A route's regular expressions: each must match a whole value.

use regex::bytes::{Regex, RegexBuilder};
use std::fmt;

/// The largest compiled expression, and the most that matching by it may keep for the next time, in bytes: a route's
/// author must not fill a proxy's memory.
const MAX_SIZE: usize = 256 * 1024;

/// What makes an expression match the whole value.
const WHOLE: (&str, &str) = (r"\A(?:", r")\z");

/// An expression that must match the whole value.
#[derive(Clone, Debug)]
pub struct Expression {
    regex: Regex,
    /// What every value that matches begins with. Of many expressions nearly all are told apart by it, at a tenth of the
    /// cost.
    beginning: Box<[u8]>,
}

impl Expression {
    /// Compiles an expression, alone first: what is only an expression between our parentheses is none.
    pub(super) fn compile(pattern: &str) -> Result<Self, String> {
        let compile =
            |pattern: &str| RegexBuilder::new(pattern).size_limit(MAX_SIZE).dfa_size_limit(MAX_SIZE).build();
        let error =
            |error: regex::Error| format!("invalid regular expression {pattern:?}: {}", last_line(&error));
        compile(pattern).map_err(error)?;
        let regex = compile(&[WHOLE.0, pattern, WHOLE.1].concat()).map_err(error)?;
        Ok(Self { regex, beginning: beginning(pattern).as_bytes().into() })
    }

    /// Whether it matches a value.
    pub fn matches(&self, value: &[u8]) -> bool {
        // Comparing with an empty box is slow: `memcmp` is told to read nothing, at an address that does not exist.
        (self.beginning.is_empty() || value.starts_with(&self.beginning)) && self.regex.is_match(value)
    }
}

impl fmt::Display for Expression {
    /// As its author wrote it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.regex.as_str();
        let written = text.strip_prefix(WHOLE.0).and_then(|text| text.strip_suffix(WHOLE.1));
        f.write_str(written.unwrap_or(text))
    }
}

/// The literal text that an expression begins with, as far as it shows without being parsed.
fn beginning(pattern: &str) -> &str {
    let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
    let (literal, rest) = pattern.split_at(pattern.find(special).unwrap_or(pattern.len()));
    // An alternative may begin with anything.
    if rest.contains('|') {
        return "";
    }
    // The last character need not be there (`+` may be followed by another quantifier).
    let optional = rest.starts_with(['*', '+', '?', '{']);
    let kept = literal.char_indices().next_back().map_or(0, |(last, _)| last);
    if optional { literal.split_at(kept).0 } else { literal }
}

/// The regex crate draws its syntax errors over several lines; the last one says what is wrong.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, expected: &str) {
        assert_eq!(beginning(pattern), expected, "{pattern}");
    }

    #[test]
    fn an_expression_begins_with_its_literal_text() {
        check("/api/v1/[0-9]+", "/api/v1/");
        check("/api", "/api");
        check("/a/b.", "/a/b");
        check("/a/(b|c)", "");
        check("/a|/b", "");
        check("(?i)/a", "");
        check(r"\w+", "");
    }

    #[test]
    fn what_may_be_missing_is_no_beginning() {
        check("/ab?", "/a");
        check("/ab*", "/a");
        check("/ab+", "/a");
        check("/ab{0,2}", "/a");
        check("/aä?", "/a");
        check("?", "");
    }

    proptest! {
        #[test]
        fn the_beginning_never_changes_what_matches(pattern in r"[ab]{0,3}[ab|*?+(){}0\\.^$äi:\[\]]{0,6}", text in "[abä]{0,5}") {
            if let Ok(expression) = Expression::compile(&pattern) {
                prop_assert_eq!(expression.matches(text.as_bytes()), expression.regex.is_match(text.as_bytes()));
            }
        }
    }
}
