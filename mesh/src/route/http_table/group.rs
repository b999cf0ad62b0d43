//! Matches whose paths are alike, found by the exact value of a header or query parameter that they ask for.

use crate::route::matching::{header_value, query_value};
use crate::route::{HttpMatch, RequestHead, ValueMatch};
use http::HeaderName;
use std::borrow::Cow;
use std::collections::HashMap;

/// A group of fewer is not worth an index: to try a match costs as much as to look for it.
const WORTH: usize = 4;

/// Places of matches, each in exactly one of these lists and in the order of precedence in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    by_value: HashMap<Name, HashMap<Box<[u8]>, Vec<usize>>>,
    /// Those that ask for no exact value, to be tried one by one.
    others: Vec<usize>,
}

/// What has a value in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    Header(HeaderName),
    Query(Box<str>),
}

impl Group {
    /// The group of the matches at these places.
    pub(super) fn of(places: &[usize], matches: &[&HttpMatch]) -> Self {
        if places.len() < WORTH {
            return Self { by_value: HashMap::new(), others: places.to_vec() };
        }
        let members = || places.iter().filter_map(|place| Some((*place, *matches.get(*place)?)));
        let mut uses: HashMap<(Name, &str), usize> = HashMap::new();
        members()
            .flat_map(|(_, matched)| values(matched))
            .for_each(|value| *uses.entry(value).or_default() += 1);
        let mut group = Self::default();
        for (place, matched) in members() {
            // The rarest value leaves the fewest to be tried.
            match values(matched).min_by_key(|value| uses.get(value).copied()) {
                Some((name, value)) => {
                    let places = group.by_value.entry(name).or_default();
                    places.entry(value.as_bytes().into()).or_default().push(place);
                }
                None => group.others.push(place),
            }
        }
        group
    }

    /// The first place whose match holds.
    pub(super) fn first(&self, request: &RequestHead<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let by_value = self.by_value.iter().filter_map(|(name, places)| places.get(&*name.value(request)?));
        let lists = by_value.chain([&self.others]);
        lists.fold(None, |best, places| {
            let mut better = places.iter().copied().take_while(|place| best.is_none_or(|best| *place < best));
            better.find(|place| holds(*place)).or(best)
        })
    }
}

impl Name {
    fn value<'a>(&self, request: &RequestHead<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Header(name) => header_value(request, name),
            Self::Query(name) => query_value(request.query, name).map(Cow::Borrowed),
        }
    }
}

/// The exact values that a match asks for.
fn values(matched: &HttpMatch) -> impl Iterator<Item = (Name, &str)> {
    let headers = matched.headers.iter().map(|(name, value)| (Name::Header(name.clone()), value));
    let query = matched.query.iter().map(|(name, value)| (Name::Query(name.as_str().into()), value));
    headers.chain(query).filter_map(|(name, value)| match value {
        ValueMatch::Exact(value) => Some((name, value.as_str())),
        ValueMatch::Regex(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Expression, PathMatch};
    use crate::testing::Request;
    use http::Method;
    use proptest::prelude::*;

    type Conditions = Vec<(&'static str, ValueMatch)>;

    fn value() -> impl Strategy<Value = ValueMatch> {
        prop::sample::select(vec!["1", "2", "1,2", "", "~[12]"]).prop_map(|text| {
            match text.strip_prefix('~') {
                Some(pattern) => ValueMatch::Regex(Expression::compile(pattern).unwrap()),
                None => ValueMatch::Exact(text.to_owned()),
            }
        })
    }

    /// Of each name at most one, as in a route.
    fn conditions() -> impl Strategy<Value = Conditions> {
        prop::collection::btree_map(prop::sample::select(vec!["host", "x", "y", "z"]), value(), 0..3)
            .prop_map(|conditions| conditions.into_iter().collect())
    }

    fn matched() -> impl Strategy<Value = HttpMatch> {
        let method = prop::option::of(prop::sample::select(vec![Method::GET, Method::POST]));
        (method, conditions(), conditions()).prop_map(|(method, headers, query)| HttpMatch {
            path: PathMatch::prefix("/"),
            method,
            headers: headers
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), value))
                .collect(),
            query: query.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    fn sent() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
        let pair = (prop::sample::select(vec!["x", "y", "z"]), prop::sample::select(vec!["1", "2", "3", ""]));
        prop::collection::vec(pair, 0..5)
    }

    proptest! {
        #[test]
        fn a_group_finds_what_trying_one_after_the_other_finds(
            matches in prop::collection::vec(matched(), 0..40), headers in sent(), query in sent(),
        ) {
            let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = Request::new(&format!("GET /?{}", query.join("&")), &headers);
            let matches: Vec<&HttpMatch> = matches.iter().collect();
            let places: Vec<usize> = (0..matches.len()).collect();
            let found = Group::of(&places, &matches)
                .first(&request.head(), |place| matches[place].matches(&request.head()));
            prop_assert_eq!(found, matches.iter().position(|matched| matched.matches(&request.head())));
        }
    }
}
