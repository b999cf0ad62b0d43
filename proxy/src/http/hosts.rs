//! The hosts that requests named lately, as they stand in a URI and in a header: nearly all requests name one of a few,
//! and to read or make one anew costs a parse and allocations.

use std::cell::RefCell;

use hyper::{header::HeaderValue, http::uri::Authority};

/// So many are kept: what an application talks to at a time, or what its callers call it.
const KEPT: usize = 8;
/// The longest that is kept: a DNS name and a port.
const LENGTH_MAX: usize = 261;

thread_local! {
    static LATELY: RefCell<Lately> = const { RefCell::new(Lately { hosts: Vec::new(), oldest: 0 }) };
}

struct Lately {
    hosts: Vec<Host>,
    /// The place of the one that has been kept for longest, if there is no more room.
    oldest: usize,
}

struct Host {
    authority: Authority,
    header: HeaderValue,
}

/// Whether a host can stand in a URI.
pub fn is_authority(host: &[u8]) -> bool {
    find(host, |_| ()).is_some()
}

/// A host as it stands in a URI, if it can.
pub fn authority(host: &str) -> Option<Authority> {
    find(host.as_bytes(), |host| host.authority.clone())
}

/// A URI's authority as the value of Host.
pub fn header(authority: &Authority) -> Option<HeaderValue> {
    find(authority.as_str().as_bytes(), |host| host.header.clone())
}

fn find<T>(text: &[u8], take: impl FnOnce(&Host) -> T) -> Option<T> {
    if text.len() > LENGTH_MAX {
        return Host::parse(text).as_ref().map(take);
    }
    LATELY.with_borrow_mut(|lately| {
        let known = lately.hosts.iter().position(|host| host.header.as_bytes() == text);
        let at = match known {
            Some(at) => at,
            None => lately.keep(Host::parse(text)?),
        };
        lately.hosts.get(at).map(take)
    })
}

impl Lately {
    fn keep(&mut self, host: Host) -> usize {
        if self.hosts.len() < KEPT {
            self.hosts.push(host);
            return self.hosts.len() - 1;
        }
        let at = self.oldest;
        self.hosts[at] = host;
        self.oldest = (at + 1) % KEPT;
        at
    }
}

impl Host {
    fn parse(text: &[u8]) -> Option<Self> {
        Some(Self { authority: Authority::try_from(text).ok()?, header: HeaderValue::from_bytes(text).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, is: bool) {
        // Twice: as it is read, and as it is kept.
        for _ in 0..2 {
            assert_eq!(is_authority(host.as_bytes()), is, "{host}");
            assert_eq!(authority(host).is_some_and(|found| found.as_str() == host), is, "{host}");
            let found = host.parse().ok().and_then(|authority| header(&authority));
            assert_eq!(found.is_some_and(|found| found == host), is, "{host}");
        }
    }

    #[test]
    fn a_host_is_what_it_is_whether_it_was_named_before_or_not() {
        for n in 0..KEPT * 3 {
            check(&format!("web-{n}.shop:8080"), true);
        }
        check("web-0.shop:8080", true);
        check("WEB-0.shop:8080", true);
        check("[fd00::1]:80", true);
        check("a b", false);
        check("", false);
        check(&"a".repeat(LENGTH_MAX + 1), true);
    }

    #[test]
    fn only_a_few_are_kept() {
        (0..1000).for_each(|n| assert!(is_authority(format!("web-{n}").as_bytes())));
        assert!(is_authority(&[b'a'; LENGTH_MAX + 1]));
        LATELY.with_borrow(|lately| {
            assert_eq!(lately.hosts.len(), KEPT);
            assert!(lately.hosts.iter().all(|host| host.header.len() <= LENGTH_MAX));
        });
    }
}
