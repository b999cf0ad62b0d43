//! The `Date` of an answer whose server has none (RFC 9110 section 6.6.1), rendered once a second.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use hyper::header::HeaderValue;

/// The last second that has a name in HTTP: of the year 9999.
const LAST: u64 = 253_402_300_799;

thread_local! {
    static RENDERED: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
}

/// The time, as HTTP writes it.
pub fn now() -> HeaderValue {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs().min(LAST);
    RENDERED.with_borrow_mut(|rendered| match rendered {
        Some((of, date)) if *of == second => date.clone(),
        _ => rendered.insert((second, render(second))).1.clone(),
    })
}

fn render(second: u64) -> HeaderValue {
    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    // It cannot fail: a date is ASCII.
    HeaderValue::try_from(date).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_has_a_date() {
        assert_eq!(render(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(render(LAST), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
