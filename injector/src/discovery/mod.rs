//! Discovery: a read-only part of the Kubernetes API, answered from the index.

mod event;
mod follower;
mod open;
mod query;
mod unsent;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;

pub use open::Open;
pub use query::{Mode, Query, Selector};

use crate::answer::{Body, Pieces, Refusal, whole, with};
use crate::index::{Entry, Index, State};
use crate::review::Caller;

const JSON: &str = "application/json";

/// Answers the read of `path` with the query string `query` for `caller`.
pub async fn answer(
    index: &Arc<Index>,
    open: &Arc<Open>,
    caller: &Caller,
    path: &str,
    query: &str,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(path, query)?;
    query.allowed_to(&caller.pod.namespace)?;
    match &query.mode {
        Mode::Get => get(&index.read(), &query),
        Mode::List => {
            let held = open.list(&caller.uid).await.ok_or_else(|| too_many("lists are on their way"))?;
            let state = index.read();
            let text = open.text(&query, state.version(), || list(&state, &query));
            Ok(with(StatusCode::OK, JSON, Pieces::new(text, held).boxed_unsync()))
        }
        Mode::Watch(options) => {
            let options = options.clone();
            let watching = open.watch(&caller.uid).ok_or_else(|| too_many("watches are open"))?;
            let events = watch::watch(Arc::clone(index), query, &options, watching);
            let frames = events.map(|events| Ok::<_, Infallible>(Frame::data(events)));
            Ok(with(StatusCode::OK, JSON, StreamBody::new(frames).boxed_unsync()))
        }
    }
}

fn too_many(what: &str) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, format!("too many {what}"))
}

fn get(state: &State, query: &Query) -> Result<Response<Body>, Refusal> {
    let found = select(state, query).into_iter().next();
    let Some(entry) = found else {
        let Selector::Name(name) = &query.selector else { return Err(Refusal::bad("no name")) };
        return Err(Refusal::absent(format!("{} {name:?} not found", query.kind.plural())));
    };
    Ok(whole(StatusCode::OK, JSON, entry.body()))
}

fn list(state: &State, query: &Query) -> Bytes {
    let metadata = json!({"resourceVersion": state.version().to_string()});
    let mut body = BytesMut::new();
    body.put_slice(
        format!("{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",", query.kind.as_str(), query.api_version)
            .as_bytes(),
    );
    body.put_slice(format!("\"metadata\":{metadata},\"items\":[").as_bytes());
    for (index, entry) in select(state, query).iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        entry.text.put(entry.version, &mut body);
    }
    body.put_slice(b"]}");
    body.freeze()
}

/// The objects that a query asks for, in the order of their names.
fn select(state: &State, query: &Query) -> Vec<Arc<Entry>> {
    let namespace = query.namespace.as_deref().unwrap_or_default();
    let fits = |entry: &&Arc<Entry>| query.matches(entry);
    let covers = |entry: &&Arc<Entry>| query.covers(entry);
    match &query.selector {
        Selector::All => state.in_namespace(query.kind, namespace).filter(fits).cloned().collect(),
        Selector::Linked(link) => state.linked(link).filter(fits).cloned().collect(),
        Selector::ServiceAt(ip) => state.service_at(*ip).filter(covers).cloned().into_iter().collect(),
        Selector::PodsOf(service) => state.pods_of(service).into_values().collect(),
        Selector::Name(name) => {
            let name = mesh::names::ObjectName::new(namespace, name);
            state.get(query.kind, &name).filter(fits).cloned().into_iter().collect()
        }
    }
}
