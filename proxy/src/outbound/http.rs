//! Requests of this pod: each is decided by the routes, sent to an endpoint, and accounted for.

use std::{net::SocketAddr, sync::Arc};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{HOST, HeaderValue},
    http::uri::{Authority, PathAndQuery},
};
use mesh::{
    http::{Decision, decide, suspicious_path},
    route::{Filters, Governing, RequestHead, UrlRewrite},
};
use tracing::debug;

use super::{Target, tcp::TRIES};
use crate::{
    access::Access,
    body::Body,
    discovery::Table,
    failure::{ConnectError, Failure},
    http::{
        HttpVersion,
        form::{self, objection, upgrade_asked},
        respond,
        serve::{self, Limits},
        upgrade,
    },
    metrics::Direction,
    net::peek::Peeked,
    proxy::Proxy,
    upstream::{Backend, Endpoint, SendError, Transport},
};

/// Serves the requests of one connection.
pub async fn serve(
    proxy: &Arc<Proxy>,
    client: Peeked,
    version: HttpVersion,
    target: Target,
    destination: SocketAddr,
) {
    let draining = proxy.draining.clone();
    let context = Arc::new(Context { proxy: Arc::clone(proxy), target, destination, version });
    let handle = move |request| {
        let context = Arc::clone(&context);
        async move { context.answer(request).await }
    };
    let ended = match version {
        HttpVersion::Http1 => serve::http1(client, Limits::APPLICATION, draining, handle).await,
        HttpVersion::Http2 => serve::http2(client, Limits::APPLICATION, None, draining, handle).await,
    };
    if let Err(error) = ended {
        debug!(%destination, %error, "an HTTP connection ended early");
    }
}

struct Context {
    proxy: Arc<Proxy>,
    target: Target,
    destination: SocketAddr,
    /// What the client speaks, and so its server: neither is made to learn the other version.
    version: HttpVersion,
}

/// What the routes make of a request: where it goes, and what changes on the way.
struct Plan {
    to: Hop,
    /// Kept for the filters that still apply to the response: the rule's, then the backendRef's.
    response_headers: Vec<mesh::route::HeaderModifier>,
}

enum Hop {
    Backend(Arc<Backend>),
    Endpoint(Arc<Endpoint>),
}

/// A request's way ends here, or goes on.
enum Next {
    Respond(Response<Body>),
    Forward(Plan),
}

impl Context {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut access = Access::begin(Direction::Outbound, &self.proxy, &request, self.destination);
        let response = match self.try_answer(request, &mut access).await {
            Ok(response) => response,
            Err(failure) => {
                access.failed(&failure);
                respond::failure(&failure)
            }
        };
        access.end(&response);
        response
    }

    async fn try_answer(
        &self,
        request: Request<Incoming>,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        let _room = self.proxy.requests.try_acquire().map_err(|_| Failure::Overloaded)?;
        if let Some(objection) = objection(&request) {
            return Err(Failure::BadRequest(objection));
        }
        let mut request = request.map(Body::passing);
        match self.plan(&mut request, access)? {
            Next::Respond(response) => Ok(response),
            Next::Forward(plan) => {
                let mut response = self.forward(request, &plan.to, access).await?;
                plan.response_headers.iter().for_each(|modifier| modifier.apply(response.headers_mut()));
                Ok(response)
            }
        }
    }

    /// Asks the routes, and makes the changes to the request that they ask for.
    fn plan(&self, request: &mut Request<Body>, access: &mut Access) -> Result<Next, Failure> {
        let (service, port) = match &self.target {
            Target::Pod(endpoint) => {
                return Ok(Next::Forward(Plan::plain(Hop::Endpoint(Arc::clone(endpoint)))));
            }
            Target::Service(service, port) => (service, port),
        };
        let table = service.table();
        let Some(port) = table.routes.ports.get(port) else {
            return Err(mesh::route::Failure::NoValidBackend.into());
        };
        match &port.governing {
            Governing::Http { table: rules, .. } => {
                let decision = decide_request(rules, request)?;
                carry_out(decision, request, &table, access)
            }
            Governing::Default
            | Governing::Refused { .. }
            | Governing::Tcp { .. }
            | Governing::Tls { .. } => {
                let backend = backend(&table, port.default)?;
                access.backend(&backend.key);
                Ok(Next::Forward(Plan::plain(Hop::Backend(backend))))
            }
        }
    }

    async fn forward(
        &self,
        mut request: Request<Body>,
        to: &Hop,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        form_strip(&mut request);
        if let Some(protocol) = upgrade_asked(request.headers()) {
            return self.switch(request, &protocol, to, access).await;
        }
        match to {
            Hop::Endpoint(endpoint) => {
                try_endpoint(endpoint, request, self.version, access).await.map_err(|e| e.failure(endpoint))
            }
            Hop::Backend(backend) => try_backend(backend, request, self.version, access).await,
        }
    }

    /// A request that asks to switch protocols: a connection (or stream) of its own, joined to the client's.
    async fn switch(
        &self,
        mut request: Request<Body>,
        protocol: &HeaderValue,
        to: &Hop,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        let client = upgrade::client_side(&mut request);
        let endpoint = match to {
            Hop::Endpoint(endpoint) => Arc::clone(endpoint),
            Hop::Backend(backend) => {
                backend.pick(&[]).ok_or_else(|| Failure::NoEndpoint(backend.key.clone()))?
            }
        };
        access.endpoint(&endpoint);
        let sent = if matches!(endpoint.transport, Transport::Mesh(_)) {
            upgrade::into_connect(&mut request, protocol);
            endpoint.send(request, HttpVersion::Http1).await.map(upgrade::from_peer)
        } else {
            endpoint.send_alone(request).await
        };
        let response = sent.map_err(|error| Tried::from(error).failure(&endpoint))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        Ok(if switched { upgrade::join(client, response) } else { response })
    }
}

fn decide_request<'t>(
    rules: &'t mesh::route::HttpTable,
    request: &Request<Body>,
) -> Result<Decision<'t>, Failure> {
    let uri = request.uri();
    if suspicious_path(uri.path()) {
        return Err(mesh::route::Failure::SuspiciousPath.into());
    }
    let head = RequestHead {
        method: request.method(),
        path: uri.path(),
        query: uri.query(),
        headers: request.headers(),
        host: form::host(request),
        scheme: "http",
    };
    Ok(decide(rules, &head, fastrand::u64(..)))
}

fn carry_out(
    decision: Decision<'_>,
    request: &mut Request<Body>,
    table: &Table,
    access: &mut Access,
) -> Result<Next, Failure> {
    match decision {
        Decision::Redirect { rule, status, location } => {
            access.route(&rule.route);
            let mut response = respond::redirect(status, location);
            if let Some(modifier) = &rule.filters.response_headers {
                modifier.apply(response.headers_mut());
            }
            Ok(Next::Respond(response))
        }
        Decision::Fail { rule, failure } => {
            rule.iter().for_each(|rule| access.route(&rule.route));
            Err(failure.into())
        }
        Decision::Forward { rule, matched_prefix, backend: index, backend_filters } => {
            access.route(&rule.route);
            let backend = backend(table, index)?;
            access.backend(&backend.key);
            let mut plan = Plan::plain(Hop::Backend(backend));
            for filters in [&rule.filters, backend_filters] {
                apply(filters, request, matched_prefix)?;
                plan.response_headers.extend(filters.response_headers.clone());
            }
            Ok(Next::Forward(plan))
        }
    }
}

fn apply(filters: &Filters, request: &mut Request<Body>, matched_prefix: usize) -> Result<(), Failure> {
    if let Some(modifier) = &filters.request_headers {
        modifier.apply(request.headers_mut());
    }
    match &filters.rewrite {
        Some(rewrite) => rewrite_url(rewrite, request, matched_prefix),
        None => Ok(()),
    }
}

fn rewrite_url(
    rewrite: &UrlRewrite,
    request: &mut Request<Body>,
    matched_prefix: usize,
) -> Result<(), Failure> {
    let unusable = || Failure::Route(mesh::route::Failure::UnusableRequest);
    let mut parts = request.uri().clone().into_parts();
    if let Some(path) = rewrite.apply(request.uri().path(), request.uri().query(), matched_prefix) {
        parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_| unusable())?);
    }
    if let Some(host) = &rewrite.hostname {
        if parts.authority.is_some() {
            parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| unusable())?);
        }
        request.headers_mut().insert(HOST, host.clone());
    }
    *request.uri_mut() = hyper::Uri::from_parts(parts).map_err(|_| unusable())?;
    Ok(())
}

/// Sends to an endpoint, and to others as long as nothing has been sent.
async fn try_backend(
    backend: &Arc<Backend>,
    mut request: Request<Body>,
    version: HttpVersion,
    access: &mut Access,
) -> Result<Response<Body>, Failure> {
    let mut tried = Vec::new();
    let mut last = Failure::NoEndpoint(backend.key.clone());
    while tried.len() < TRIES {
        let Some(endpoint) = backend.pick(&tried) else { break };
        match try_endpoint(&endpoint, request, version, access).await {
            Ok(response) => return Ok(response),
            Err(Tried::NotSent(error, unsent)) => {
                last = Failure::Connect { endpoint: endpoint.addr, source: error };
                request = *unsent;
            }
            Err(Tried::Broken(error)) => return Err(Failure::Exchange(error)),
        }
        tried.push(endpoint.addr);
    }
    Err(last)
}

async fn try_endpoint(
    endpoint: &Arc<Endpoint>,
    request: Request<Body>,
    version: HttpVersion,
    access: &mut Access,
) -> Result<Response<Body>, Tried> {
    access.endpoint(endpoint);
    Ok(endpoint.send(request, version).await?)
}

/// What came of one endpoint.
enum Tried {
    NotSent(ConnectError, Box<Request<Body>>),
    Broken(hyper::Error),
}

impl From<SendError> for Tried {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(error, request) => Self::NotSent(error, request),
            SendError::Broken(error) => Self::Broken(error),
        }
    }
}

impl Tried {
    fn failure(self, endpoint: &Endpoint) -> Failure {
        match self {
            Self::NotSent(source, _) => Failure::Connect { endpoint: endpoint.addr, source },
            Self::Broken(error) => Failure::Exchange(error),
        }
    }
}

impl Plan {
    fn plain(to: Hop) -> Self {
        Self { to, response_headers: Vec::new() }
    }
}

fn backend(table: &Table, index: usize) -> Result<Arc<Backend>, Failure> {
    table.backends.get(index).cloned().ok_or_else(|| mesh::route::Failure::NoValidBackend.into())
}

/// Headers that speak for the mesh are the mesh's alone, on the way out as well.
fn form_strip(request: &mut Request<Body>) {
    let names: Vec<_> =
        request.headers().keys().filter(|name| name.as_str().starts_with("heddle-")).cloned().collect();
    names.into_iter().for_each(|name| drop(request.headers_mut().remove(name)));
}
