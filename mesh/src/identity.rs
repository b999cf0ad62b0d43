//! Who a workload is: the SPIFFE ID of its service account. Identities are compared byte for byte, so
//! exactly one spelling of each is let in; everything else is refused here and nowhere later.

use crate::names::{MAX_LABEL, is_dns_label, is_dns_name};
use std::fmt;
use std::sync::Arc;

/// The longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;
/// The longest trust domain name in bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// A name that no identity can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a lower-case DNS name of at most 255 bytes.
    #[error("trust domain {0:?} is not a lower-case DNS name of at most 255 bytes")]
    TrustDomain(String),
    /// Not `spiffe://TD/ns/NAMESPACE/sa/SERVICEACCOUNT`.
    #[error("{0:?} is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT")]
    Form(String),
    /// A namespace or service account that Kubernetes would not have let in.
    #[error("{0:?} is not the name of a namespace or service account")]
    Segment(String),
    /// Over 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes, this one {0}")]
    TooLong(usize),
}

/// The name of the realm whose certificates trust one root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a lower-case DNS name of at most 255 bytes.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.len() <= MAX_TRUST_DOMAIN && is_dns_name(text) {
            Ok(Self(text.into()))
        } else {
            Err(IdentityError::TrustDomain(excerpt(text)))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://TD/ns/NAMESPACE/sa/SERVICEACCOUNT`, in its one canonical spelling. A clone is the same memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    id: Arc<str>,
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

impl Identity {
    /// The identity of a service account.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        if namespace.len() > MAX_LABEL || !is_dns_label(namespace) {
            return Err(IdentityError::Segment(excerpt(namespace)));
        }
        if !is_dns_name(service_account) || service_account.len() > 253 {
            return Err(IdentityError::Segment(excerpt(service_account)));
        }
        Ok(Self(Arc::new(Parts {
            id: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })))
    }

    /// Reads a SPIFFE ID. What it accepts is canonical: it prints as it was written.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_ID {
            return Err(IdentityError::TooLong(text.len()));
        }
        let form = || IdentityError::Form(excerpt(text));
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        let mut next = || parts.next().ok_or_else(form);
        let (domain, ns, namespace, sa, account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(form());
        }
        Self::new(&TrustDomain::parse(domain)?, namespace, account)
    }

    /// The whole SPIFFE ID.
    pub fn as_str(&self) -> &str {
        &self.0.id
    }

    /// The whole SPIFFE ID, for who keeps it beside others.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0.id)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The service account's namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The service account's name.
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.id)
    }
}

/// Errors quote their input; hostile input is quoted in part.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, accepted: bool) {
        assert_eq!(Identity::parse(text).is_ok(), accepted, "{text:?}");
    }

    #[test]
    fn an_identity_reads_back_what_it_prints() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let identity = Identity::new(&domain, "shop", "web.v1").unwrap();
        assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web.v1");
        assert_eq!(Identity::parse(identity.as_str()), Ok(identity));
    }

    #[test]
    fn only_the_canonical_spelling_is_an_identity() {
        check("spiffe://cluster.local/ns/shop/sa/web", true);
        for bad in [
            "",
            "spiffe://",
            "https://cluster.local/ns/shop/sa/web",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:80/ns/shop/sa/web",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe:///ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/web?x=1",
            "spiffe://cluster.local/ns/shop/sa/web#x",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe://cluster.local//ns/shop/sa/web",
            "spiffe://cluster.local/ns/../sa/web",
            "spiffe://cluster.local/ns/shop/sa/.",
            "spiffe://cluster.local/ns/shop/sa/we%62",
            "spiffe://cluster.local/ns/shop/sa/web\0",
            "spiffe://cluster.local/sa/shop/ns/web",
        ] {
            check(bad, false);
        }
    }

    #[test]
    fn an_identity_is_bounded() {
        check(&format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(3000)), false);
        check(&format!("spiffe://{}/ns/shop/sa/web", "a.".repeat(200)), false);
    }

    proptest! {
        #[test]
        fn what_is_accepted_prints_as_written(text in "spiffe://[a-zA-Z.:%]{1,9}/ns/[a-z.%-]{0,5}/sa/[a-z./%]{0,9}") {
            if let Ok(identity) = Identity::parse(&text) {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
