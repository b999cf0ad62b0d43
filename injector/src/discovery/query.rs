//! What a read asks for: a request's path and query string, understood once.
//!
//! Pure. Everything that is not plainly allowed is refused, with the reason: a list names a namespace,
//! an object or an address, so that nobody reads the whole cluster, and Secrets are no kind at all.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh::names::{ObjectName, ServiceName};

use crate::answer::Refusal;
use crate::index::{Entry, Link, SERVICE_NAME_LABEL, State, Topic};
use crate::object::{GATEWAY_GROUP, Key, Kind, Serving};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The kind of object.
    pub kind: Kind,
    /// `GROUP/VERSION` as it was asked for: a list answers in the same.
    pub api_version: String,
    /// The namespace that the path names.
    pub namespace: Option<Arc<str>>,
    /// Which objects.
    pub selector: Selector,
    /// Labels that the objects must have, with these values.
    pub labels: Vec<(String, String)>,
    /// What is to be answered of them.
    pub mode: Mode,
}

/// Which objects of a kind and namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// All of the namespace.
    All,
    /// The one of that name.
    Name(Arc<str>),
    /// Those found by an address, or the slices of a Service.
    Linked(Link),
    /// The Service whose an address is.
    ServiceAt(IpAddr),
    /// The pods at the addresses of a Service's EndpointSlices.
    PodsOf(ServiceName),
}

/// How the objects are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One object, or 404.
    Get,
    /// All as one list.
    List,
    /// Their changes, until the time is over.
    Watch(WatchOptions),
}

/// How a watch begins, goes on and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// Where it begins.
    pub start: Start,
    /// Whether bookmarks may be sent.
    pub bookmarks: bool,
    /// When it ends; its client then watches on from the last version it saw.
    pub timeout: Duration,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With all objects as they are, as ADDED events.
    Present,
    /// The same, and a bookmark when all were sent (Kubernetes' streaming lists).
    PresentThenBookmark,
    /// With the changes after a resourceVersion.
    After(u64),
}

/// A watch without a timeout of its own ends after this long: half an hour, as at the API server.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
const LONGEST_TIMEOUT: u64 = 3600;

impl Query {
    /// Understands a request for `path` with the query string `query`.
    pub fn parse(path: &str, query: &str) -> Result<Self, Refusal> {
        let path = Path::parse(path)?;
        let mut parameters = Parameters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            parameters.take(&name, &value)?;
        }
        let selector = path.selector(&parameters)?;
        let mode = path.mode(&parameters)?;
        let namespace = path.namespace.map(Arc::from);
        let query = Self {
            kind: path.kind,
            api_version: path.api_version,
            namespace,
            selector,
            labels: parameters.labels,
            mode,
        };
        query.allowed()
    }

    /// Whether an object is asked for. (Whose an address is, and whether a pod belongs to a Service, is for the index
    /// to say.)
    pub fn matches(&self, entry: &Entry) -> bool {
        let is_selected = || match &self.selector {
            Selector::All => true,
            Selector::Name(name) => entry.key.name.name == *name,
            Selector::Linked(link) => entry.links().contains(link),
            Selector::PodsOf(_) | Selector::ServiceAt(_) => false,
        };
        self.covers(entry) && is_selected()
    }

    /// Whether an object is of the kind and namespace, and has the labels.
    pub fn covers(&self, entry: &Entry) -> bool {
        entry.key.kind == self.kind
            && self.namespace.as_ref().is_none_or(|namespace| entry.key.name.namespace == *namespace)
            && self.labels.iter().all(|(name, value)| entry.has_label(name, value))
    }

    /// What its answer is decided by: it changes only with a change of one of these.
    pub fn topics(&self) -> Vec<Topic> {
        let namespace = self.namespace.clone().unwrap_or_default();
        match &self.selector {
            Selector::All => vec![Topic::Namespace(self.kind, namespace)],
            Selector::Name(name) => {
                let name = ObjectName { namespace, name: Arc::clone(name) };
                vec![Topic::Object(Key { kind: self.kind, name })]
            }
            Selector::Linked(link) => vec![Topic::Linked(link.clone())],
            Selector::ServiceAt(ip) => {
                State::links_at(*ip).map(Topic::Linked).into_iter().chain([Topic::Ranges]).collect()
            }
            Selector::PodsOf(service) => {
                vec![Topic::Linked(Link::SliceOf(service.clone())), Topic::PodsOf(service.clone())]
            }
        }
    }

    /// Whether a pod of `namespace` may ask so: what others keep in ConfigMaps and ServiceAccounts is not its business.
    pub fn allowed_to(&self, namespace: &str) -> Result<(), Refusal> {
        match self.kind.serving() {
            Serving::ByName if self.namespace.as_deref() != Some(namespace) => Err(Refusal::forbidden(
                format!("{} are served to pods of their own namespace only", self.kind.plural()),
            )),
            Serving::ByName | Serving::Watched | Serving::Never => Ok(()),
        }
    }

    fn allowed(self) -> Result<Self, Refusal> {
        let plural = self.kind.plural();
        let named = matches!(self.selector, Selector::Name(_));
        match self.kind.serving() {
            Serving::Never => Err(Refusal::forbidden(format!("{plural} are not served here"))),
            Serving::ByName if self.mode != Mode::Get => {
                Err(Refusal::forbidden(format!("{plural} are served one at a time, by name")))
            }
            _ if self.namespace.is_none() && self.selector == Selector::All => Err(Refusal::forbidden(
                format!("{plural} are listed by namespace, name or address, not of the whole cluster"),
            )),
            _ if self.namespace.is_none() && named && self.kind.namespaced() => {
                Err(Refusal::bad(format!("the path must name the namespace of the {plural}")))
            }
            Serving::Watched | Serving::ByName => Ok(self),
        }
    }
}

/// The parts of `/api/v1/...` and `/apis/GROUP/VERSION/...`.
struct Path<'p> {
    kind: Kind,
    api_version: String,
    namespace: Option<&'p str>,
    name: Option<&'p str>,
}

impl<'p> Path<'p> {
    fn parse(path: &'p str) -> Result<Self, Refusal> {
        let absent = || Refusal::absent(format!("{path} is not served here"));
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').take(9).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", "v1", rest @ ..] => ("", "v1", rest),
            ["apis", "discovery.k8s.io", "v1", rest @ ..] => ("discovery.k8s.io", "v1", rest),
            ["apis", GATEWAY_GROUP, version, rest @ ..] if is_version(version) => {
                (GATEWAY_GROUP, *version, rest)
            }
            _ => return Err(absent()),
        };
        let (namespace, plural, name) = match rest {
            ["namespaces", name] => (None, "namespaces", Some(*name)),
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            [plural] => (None, *plural, None),
            _ => return Err(absent()),
        };
        let kind = Kind::of_plural(group, plural).ok_or_else(absent)?;
        let misplaced = namespace.is_some() != kind.namespaced() && (namespace.is_some() || name.is_some());
        if misplaced || [namespace, name].contains(&Some("")) {
            return Err(absent());
        }
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Ok(Self { kind, api_version, namespace, name })
    }

    fn selector(&self, parameters: &Parameters) -> Result<Selector, Refusal> {
        match (self.name, &parameters.field) {
            (Some(name), None) => Ok(Selector::Name(Arc::from(name))),
            (Some(_), Some(_)) => Err(Refusal::bad("a field selector is for lists")),
            (None, None) => Ok(self.slices(parameters).unwrap_or(Selector::All)),
            (None, Some((field, value))) => selected(self.kind, field, value),
        }
    }

    /// The slices of one Service, if its label is what is asked for: nobody goes through a whole namespace for them.
    fn slices(&self, parameters: &Parameters) -> Option<Selector> {
        let namespace = self.namespace.filter(|_| self.kind == Kind::EndpointSlice)?;
        let (_, service) = parameters.labels.iter().find(|(name, _)| name == SERVICE_NAME_LABEL)?;
        Some(Selector::Linked(Link::SliceOf(ObjectName::new(namespace, service))))
    }

    fn mode(&self, parameters: &Parameters) -> Result<Mode, Refusal> {
        match (self.name, parameters.watch) {
            (Some(_), false) => Ok(Mode::Get),
            (Some(_), true) => Err(Refusal::bad("watch one object with fieldSelector=metadata.name=NAME")),
            (None, false) => Ok(Mode::List),
            (None, true) => parameters.watch_options().map(Mode::Watch),
        }
    }
}

fn is_version(text: &str) -> bool {
    text.len() <= 16 && text.starts_with('v') && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn selected(kind: Kind, field: &str, value: &str) -> Result<Selector, Refusal> {
    let address =
        || value.parse::<IpAddr>().map_err(|_| Refusal::bad(format!("{value:?} is not an IP address")));
    match (kind, field) {
        (_, "metadata.name") => Ok(Selector::Name(Arc::from(value))),
        (Kind::Service, "spec.clusterIPs") => Ok(Selector::ServiceAt(address()?)),
        (Kind::Pod, "status.podIPs") => Ok(Selector::Linked(Link::PodAddress(address()?.to_canonical()))),
        (Kind::Pod, "heddle.dev/service") => {
            value.parse::<ObjectName>().map(Selector::PodsOf).map_err(|error| Refusal::bad(error.to_string()))
        }
        _ => Err(Refusal::bad(format!("{} cannot be selected by {field:?}", kind.plural()))),
    }
}

/// The parameters of the query string that mean something here; others are left alone, as the API server does.
#[derive(Default)]
struct Parameters {
    field: Option<(String, String)>,
    labels: Vec<(String, String)>,
    watch: bool,
    version: Option<u64>,
    bookmarks: bool,
    initial_events: bool,
    timeout: Option<u64>,
}

impl Parameters {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let number =
            || value.parse::<u64>().map_err(|_| Refusal::bad(format!("{name}={value} is not a number")));
        match name {
            _ if value.is_empty() => {}
            "fieldSelector" => self.field = Some(equality(value)?),
            "labelSelector" => self.labels = value.split(',').map(equality).collect::<Result<_, _>>()?,
            "watch" => self.watch = is_true(value),
            "resourceVersion" => self.version = Some(number()?),
            "allowWatchBookmarks" => self.bookmarks = is_true(value),
            "sendInitialEvents" => self.initial_events = is_true(value),
            "timeoutSeconds" => self.timeout = Some(number()?),
            _ => {}
        }
        Ok(())
    }

    fn watch_options(&self) -> Result<WatchOptions, Refusal> {
        if self.initial_events && !self.bookmarks {
            let message =
                "sendInitialEvents needs allowWatchBookmarks: a bookmark marks the end of the initial events";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        let start = match self.version {
            _ if self.initial_events => Start::PresentThenBookmark,
            None | Some(0) => Start::Present,
            Some(version) => Start::After(version),
        };
        let timeout = self
            .timeout
            .map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.clamp(1, LONGEST_TIMEOUT)));
        Ok(WatchOptions { start, bookmarks: self.bookmarks, timeout })
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T")
}

/// `name=value` or `name==value`; sets and inequalities are not needed here.
fn equality(text: &str) -> Result<(String, String), Refusal> {
    let refused = || Refusal::bad(format!("the selector {text:?} is not of the form name=value"));
    let (name, value) = text.split_once('=').ok_or_else(refused)?;
    let value = value.strip_prefix('=').unwrap_or(value);
    if name.is_empty() || name.ends_with('!') || value.contains([',', '=']) {
        return Err(refused());
    }
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
