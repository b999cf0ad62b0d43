//! Where a request's match is found, in the order of precedence and without trying all of them.
//!
//! A thousand rules must not cost a thousand comparisons. Paths are found by hash: the order puts exact paths first and
//! longer prefixes before shorter ones, which is the order in which they are asked. Matches of one path, or of any, are
//! found by the value of a header or query parameter (`group.rs`).

use super::group::Group;
use crate::route::matching::ends_element;
use crate::route::{HttpMatch, PathMatch, RequestHead};
use std::collections::{BTreeSet, HashMap};

/// Places in the order of precedence, of which the least wins.
type Places = Vec<usize>;

/// The places of a table's matches.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Group>,
    /// Prefixes other than `/`.
    prefixes: HashMap<Box<str>, Group>,
    /// The lengths of these prefixes in bytes, longest first.
    prefix_lengths: Vec<usize>,
    /// Expressions, then matches of any path.
    others: Vec<Group>,
}

impl Index {
    /// An index of matches that are in the order of precedence.
    pub(super) fn of(matches: &[&HttpMatch]) -> Self {
        let mut exact: HashMap<Box<str>, Places> = HashMap::new();
        let mut prefixes: HashMap<Box<str>, Places> = HashMap::new();
        let (mut expressions, mut any) = (Places::new(), Places::new());
        for (place, matched) in matches.iter().enumerate() {
            match &matched.path {
                PathMatch::Exact(path) => exact.entry(path.as_str().into()).or_default().push(place),
                PathMatch::Prefix(prefix) if prefix.is_empty() => any.push(place),
                PathMatch::Prefix(prefix) => prefixes.entry(prefix.as_str().into()).or_default().push(place),
                PathMatch::Regex(_) => expressions.push(place),
            }
        }
        let lengths: BTreeSet<usize> = prefixes.keys().map(|prefix| prefix.len()).collect();
        let group = |places: Places| Group::of(&places, matches);
        let groups = |paths: HashMap<Box<str>, Places>| {
            paths.into_iter().map(|(path, places)| (path, group(places))).collect()
        };
        Self {
            exact: groups(exact),
            prefixes: groups(prefixes),
            prefix_lengths: lengths.into_iter().rev().collect(),
            others: [expressions, any].map(group).into(),
        }
    }

    /// The first of the matches that hold, if one does; `holds` tries the one at a place.
    pub(super) fn first(&self, request: &RequestHead<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let exact = self.exact.get(request.path).into_iter();
        let groups = exact.chain(self.prefixes_of(request.path)).chain(&self.others);
        groups.filter_map(|group| group.first(request, &holds)).next()
    }

    fn prefixes_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Group> {
        let cut = move |len: &usize| path.get(..*len).filter(|_| ends_element(path, *len));
        self.prefix_lengths.iter().filter_map(cut).filter_map(|prefix| self.prefixes.get(prefix))
    }
}
