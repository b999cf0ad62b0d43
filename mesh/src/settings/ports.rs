//! Sets of ports as people write them: `3306,5000-5100`.

use std::fmt;
use std::str::FromStr;

/// The most ranges in a set: enough for people, small enough for an iptables rule each.
const MAX_RANGES: usize = 64;

/// A set of ports: ordered ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

/// Not a set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortSetError {
    /// A part that is neither a port nor a range.
    #[error("{0:?} is neither a port (1 to 65535) nor a range of ports such as 5000-5100")]
    Part(String),
    /// Over 64 parts.
    #[error("more than {MAX_RANGES} ports and ranges")]
    TooMany,
}

impl PortSet {
    /// Reads a comma-separated list of ports and ranges. An empty text is the empty set.
    pub fn parse(text: &str) -> Result<Self, PortSetError> {
        let parts = text.split(',').map(str::trim);
        let mut ranges = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            if ranges.len() == MAX_RANGES {
                return Err(PortSetError::TooMany);
            }
            ranges.push(range(part).ok_or_else(|| PortSetError::Part(part.chars().take(40).collect()))?);
        }
        Ok(Self(merged(ranges)))
    }

    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order, first and last port of each.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

fn range(part: &str) -> Option<(u16, u16)> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

fn port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

impl FromStr for PortSet {
    type Err = PortSetError;

    fn from_str(text: &str) -> Result<Self, PortSetError> {
        Self::parse(text)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ix, (first, last)) in self.0.iter().enumerate() {
            let comma = if ix == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        assert_eq!(PortSet::parse(text).unwrap().to_string(), canonical);
    }

    #[test]
    fn a_set_prints_in_canonical_form() {
        check("", "");
        check("3306", "3306");
        check(" 5000-5100 , 3306 ", "3306,5000-5100");
        check("5,4,3,10-12,12-14,15", "3-5,10-15");
        check("65535,65534", "65534-65535");
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for bad in ["0", "65536", "x", "-1", "+1", "5-4", "1-2-3", "80;81", "8 0"] {
            assert!(matches!(PortSet::parse(bad), Err(PortSetError::Part(_))), "{bad}");
        }
        assert_eq!(PortSet::parse(&"1,".repeat(65)), Err(PortSetError::TooMany));
    }

    proptest! {
        #[test]
        fn a_set_holds_its_ports(ports in prop::collection::vec(1u16.., 0..60), other: u16) {
            let text = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            let set = PortSet::parse(&text).unwrap();
            prop_assert!(ports.iter().all(|p| set.contains(*p)));
            prop_assert_eq!(set.contains(other), ports.contains(&other));
            prop_assert_eq!(PortSet::parse(&set.to_string()), Ok(set));
        }
    }
}
