//! The trace that a request belongs to, as it stands in `traceparent` (W3C Trace Context, level 2).

use std::fmt;

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// The flags that the specification knows; others are not passed on (section 3.2.2.5).
const KNOWN: u8 = 0b11;
/// `VERSION-TRACE-PARENT-FLAGS`, in hexadecimal.
const LENGTH: usize = 55;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace. Never zero.
    pub trace: u128,
    /// The span. Never zero.
    pub span: u64,
    flags: u8,
}

impl Context {
    /// The root of a trace of its own.
    pub fn root(sampled: bool) -> Self {
        Self { trace: fastrand::u128(1..), span: fastrand::u64(1..), flags: u8::from(sampled) }
    }

    /// A new span in the same trace.
    pub fn child(self) -> Self {
        Self { span: fastrand::u64(1..), ..self }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace, as everybody writes it.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The span likewise.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }

    /// Where a request's sender stands. A `traceparent` that is not as it must be, or not the only one, is none
    /// (section 4.2).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::read(Self::sent(headers)?)
    }

    /// The `traceparent` of a request, if it has only one: to be read later, for most are never needed.
    pub fn sent(headers: &HeaderMap) -> Option<&HeaderValue> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        lines.next().filter(|_| lines.next().is_none())
    }

    /// What a `traceparent` says.
    pub fn read(traceparent: &HeaderValue) -> Option<Self> {
        Self::parse(traceparent.as_bytes())
    }

    /// Names this span as the parent of what comes next. State that belonged to another trace goes.
    pub fn pass_on(self, headers: &mut HeaderMap, parent: Option<Self>) {
        if parent.is_none() {
            headers.remove(TRACESTATE);
        }
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = (hex(text.get(..2)?)?, text.get(LENGTH..)?);
        // Version 0 ends here; a later one may go on, but not with the same word (section 3.2.4).
        let whole = rest.is_empty() || (version > 0 && rest.first() == Some(&b'-'));
        let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        let trace = hex(text.get(3..35)?)?;
        let span = u64::try_from(hex(text.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(text.get(53..LENGTH)?)?).ok()?;
        (version != 0xff && whole && dashes && trace != 0 && span != 0).then_some(Self {
            trace,
            span,
            flags: flags & KNOWN,
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower-case digits alone: upper-case ones are an error there.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().expect("value"));
        }
        headers
    }

    #[test]
    fn a_valid_parent_is_read_and_written_as_it_is() {
        let context = Context::of(&headers(&[VALID])).expect("valid");
        assert_eq!(context.to_string(), VALID);
        assert!(context.is_sampled());
        assert!(!Context::of(&headers(&[&VALID.replace("-01", "-00")])).expect("valid").is_sampled());
    }

    #[test]
    fn anything_else_is_none() {
        for bad in [
            "",
            "00",
            &VALID.to_uppercase(),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALID.replacen("00-", "ff-", 1),
            &format!("{VALID}-more"),
            &VALID.replace('-', "_"),
        ] {
            assert_eq!(Context::of(&headers(&[bad])), None, "{bad}");
        }
        assert_eq!(Context::of(&headers(&[VALID, VALID])), None, "two");
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_it_goes() {
        let later = format!("{}-more", VALID.replacen("00-", "cc-", 1));
        assert_eq!(Context::of(&headers(&[&later])).expect("valid").to_string(), VALID);
    }

    #[test]
    fn the_state_of_another_trace_is_not_passed_on() {
        let mut with_state = headers(&["not valid"]);
        with_state.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        let parent = Context::of(&with_state);
        let root = Context::root(true);
        root.pass_on(&mut with_state, parent);
        assert_eq!(with_state.get(TRACEPARENT).expect("one"), root.to_string().as_str());
        assert!(!with_state.contains_key(TRACESTATE));
    }

    #[test]
    fn a_child_stays_in_its_trace() {
        let parent = Context::of(&headers(&[VALID])).expect("valid");
        let child = parent.child();
        assert_eq!(child.trace, parent.trace);
        assert_ne!(child.span, parent.span);
        assert!(child.is_sampled());
    }
}
