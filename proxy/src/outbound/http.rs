//! Requests of this pod: each is decided by the routes, sent to an endpoint, and accounted for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method, Request, Response,
    header::{HOST, HeaderValue},
    http::uri::{Authority, PathAndQuery},
};
use mesh::{
    balance::By,
    http::{Decision, decide, suspicious_path},
    route::{AppProtocol, Filters, Governing, HeaderModifier, RequestHead, UrlRewrite},
};

use super::{Target, protocol, tcp::TRIES};
use crate::{
    access::Access,
    body::Body,
    discovery::Table,
    failure::Failure,
    http::{
        HttpVersion, form,
        respond::{self, Answer, Manner},
        serve::{self, Limits},
        upgrade,
    },
    metrics::Direction,
    net::peek::Peeked,
    proxy::Proxy,
    upstream::{self, Backend, Endpoint, SendError},
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
    let handle = move |request| Arc::clone(&context).answer(request);
    serve::serve(client, version, Limits::APPLICATION, None, draining, handle).await;
}

struct Context {
    proxy: Arc<Proxy>,
    target: Target,
    destination: SocketAddr,
    /// What the client speaks, and so its server, unless the server's Service says that it speaks HTTP/2.
    version: HttpVersion,
}

/// What the routes make of a request: where it goes, and what changes on the way.
struct Plan {
    to: Hop,
    /// What the Service says that its servers speak.
    declared: Option<AppProtocol>,
    /// Kept for the filters that still apply to the response: the rule's, then the backendRef's.
    response_headers: [Option<Arc<HeaderModifier>>; 2],
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
    async fn answer(self: Arc<Self>, mut request: Box<Request<Body>>) -> Answer {
        let manner = Manner::of(&request);
        let mut access = Access::begin(Direction::Outbound, &self.proxy, &request, self.destination);
        let outcome = self.try_answer(&mut request, &mut access).await;
        access.close(outcome, manner)
    }

    async fn try_answer(
        &self,
        request: &mut Request<Body>,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        access.has_room()?;
        form::check(request)?;
        if self.asks_a_proxy(request) {
            return Box::pin(self.pass_on(request, access)).await;
        }
        if *request.method() == Method::CONNECT {
            return Err(Failure::BadRequest("CONNECT is for proxies that were asked to be one"));
        }
        access.passes(request.body_mut());
        let upgrade = form::receive(request);
        access.pass_on(request.headers_mut());
        let plan = match self.plan(request, access)? {
            Next::Respond(response) => return Ok(response),
            Next::Forward(plan) => plan,
        };
        let mut response = match upgrade {
            None => self.forward(request, Errand::Request, &plan, access).await?,
            // Boxed: the few that switch must not size every request's future.
            Some(protocol) => Box::pin(self.switch(request, &protocol, &plan, access)).await?,
        };
        for modifier in plan.response_headers.iter().flatten() {
            modifier.apply(response.headers_mut());
        }
        Ok(response)
    }

    /// A CONNECT or an absolute target, where nothing says HTTP: it is between an explicit proxy and its client. (A
    /// connection that begins so is carried as bytes from the first one on; this is for its later requests.)
    fn asks_a_proxy(&self, request: &Request<Body>) -> bool {
        let asks = *request.method() == Method::CONNECT || request.uri().scheme().is_some();
        asks && self.version == HttpVersion::Http1 && protocol::is_unclaimed(&self.target)
    }

    /// Sends such a request to the server as it is, and joins the two sides if it was a CONNECT that succeeded.
    async fn pass_on(
        &self,
        request: &mut Request<Body>,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        let connects = *request.method() == Method::CONNECT;
        access.passes(request.body_mut());
        let client = upgrade::side_of(request);
        form::receive(request);
        let plan = match self.plan(request, access)? {
            Next::Respond(response) => return Ok(response),
            Next::Forward(plan) => plan,
        };
        let response = self.forward(request, Errand::AsItIs, &plan, access).await?;
        Ok(if connects { upgrade::join_connect(client, response, access.room()) } else { response })
    }

    /// Asks the routes, and makes the changes to the request that they ask for.
    fn plan(&self, request: &mut Request<Body>, access: &mut Access) -> Result<Next, Failure> {
        let (service, port) = match &self.target {
            Target::Pod(endpoint) => {
                return Ok(Next::Forward(Plan::endpoint(endpoint)));
            }
            Target::Service(service, port) => (service, port),
        };
        let table = service.table();
        access.parent(&table.routes.service, *port);
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
            | Governing::Tls { .. } => Ok(Next::Forward(Plan::backend(&table, port.default, access)?)),
        }
    }

    /// A request that asks to switch protocols: a connection (or stream) of its own, joined to the client's.
    async fn switch(
        &self,
        request: &mut Request<Body>,
        protocol: &HeaderValue,
        plan: &Plan,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        let client = upgrade::side_of(request);
        let response = self.forward(request, Errand::Switch(protocol), plan, access).await?;
        Ok(upgrade::join(client, response, access.room()))
    }

    /// Sends to an endpoint, and to others as long as nothing has been sent.
    async fn forward(
        &self,
        request: &mut Request<Body>,
        errand: Errand<'_>,
        plan: &Plan,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        let version = plan.version(self.version);
        let mut tried = Tried::default();
        let mut last = None;
        loop {
            let now = upstream::now();
            let Some(endpoint) = plan.to.pick(self.destination.ip(), &tried, now) else { break };
            access.endpoint(&endpoint);
            let sent = match errand {
                Errand::Request => endpoint.send(request, version, now).await,
                // Boxed: the few that switch must not size every request's future.
                Errand::Switch(protocol) => Box::pin(endpoint.switch(request, protocol)).await,
                Errand::AsItIs => Box::pin(endpoint.send_as_it_is(request)).await,
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(SendError::Reset(reason)) => return Err(Failure::Reset(reason)),
                Err(SendError::Broken(error)) => return Err(Failure::Exchange(error)),
                Err(SendError::NotSent(source)) => {
                    last = Some(Failure::Connect { endpoint: endpoint.addr, source });
                }
            }
            tried.push(endpoint.addr);
        }
        Err(last.unwrap_or_else(|| plan.to.no_endpoint()))
    }
}

/// How a request is sent.
#[derive(Clone, Copy)]
enum Errand<'a> {
    /// As every request.
    Request,
    /// To switch to a protocol.
    Switch(&'a HeaderValue),
    /// To a server that is a proxy itself.
    AsItIs,
}

/// The endpoints that were tried for one request.
type Tried = Vec<SocketAddr>;

impl Hop {
    /// The next endpoint to try.
    fn pick(&self, dialled: IpAddr, tried: &Tried, now: Duration) -> Option<Arc<Endpoint>> {
        match self {
            Self::Endpoint(endpoint) => tried.is_empty().then(|| Arc::clone(endpoint)),
            Self::Backend(backend) => {
                (tried.len() < TRIES).then(|| backend.pick(By::Request, dialled, tried, now)).flatten()
            }
        }
    }

    fn no_endpoint(&self) -> Failure {
        match self {
            Self::Backend(backend) => Failure::NoEndpoint(backend.key.clone()),
            Self::Endpoint(_) => mesh::route::Failure::NoEndpoint.into(),
        }
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
            access.rule(rule);
            let mut response = respond::redirect(status, location);
            if let Some(modifier) = &rule.filters.response_headers {
                modifier.apply(response.headers_mut());
            }
            Ok(Next::Respond(response))
        }
        Decision::Fail { rule, failure } => {
            rule.iter().for_each(|rule| access.rule(rule));
            Err(failure.into())
        }
        Decision::Forward { rule, matched_prefix, backend: index, backend_filters } => {
            access.rule(rule);
            let mut plan = Plan::backend(table, index, access)?;
            for filters in [&rule.filters, backend_filters] {
                apply(filters, request, matched_prefix)?;
            }
            plan.response_headers =
                [&rule.filters, backend_filters].map(|filters| filters.response_headers.clone());
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

impl Plan {
    fn endpoint(endpoint: &Arc<Endpoint>) -> Self {
        Self { to: Hop::Endpoint(Arc::clone(endpoint)), declared: None, response_headers: [None, None] }
    }

    fn backend(table: &Table, index: usize, access: &mut Access) -> Result<Self, Failure> {
        let backend = table.backends.get(index).ok_or(mesh::route::Failure::NoValidBackend)?;
        access.backend(&backend.key);
        let declared = table.declared.get(index).copied().flatten();
        Ok(Self { to: Hop::Backend(Arc::clone(backend)), declared, response_headers: [None, None] })
    }

    /// What the server is spoken to in: what its client speaks, but HTTP/2 where its Service says so.
    fn version(&self, client: HttpVersion) -> HttpVersion {
        if self.declared == Some(AppProtocol::Http2) { HttpVersion::Http2 } else { client }
    }
}

#[cfg(test)]
mod tests;
