//! Names of namespaced objects, as one cheap value: tables and maps clone them on every change.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest DNS label in bytes (RFC 1035), which is also the longest namespace.
pub(crate) const MAX_LABEL: usize = 63;

/// The namespace and name of a Service, pod or route. Orders by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The object's namespace.
    pub namespace: Arc<str>,
    /// The object's name in it.
    pub name: Arc<str>,
}

/// The name of a Service.
pub type ServiceName = ObjectName;

/// A text that is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct NameError(String);

impl ObjectName {
    /// The object `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NameError(text.to_owned())),
        }
    }
}

/// Whether the text is a lower-case DNS name.
pub(crate) fn is_dns_name(text: &str) -> bool {
    text.split('.').all(|label| label.len() <= MAX_LABEL && is_dns_label(label))
}

/// Whether the text is a lower-case DNS label of any length.
pub(crate) fn is_dns_label(label: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_what_it_prints() {
        let name = ObjectName::new("shop", "web");
        assert_eq!(name.to_string(), "shop/web");
        assert_eq!("shop/web".parse(), Ok(name));
    }

    #[test]
    fn a_name_has_exactly_two_parts() {
        for bad in ["", "web", "/web", "shop/", "shop/web/x"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }
}
