//! Requests to this pod, handed to the application with the caller's proven identity and with nobody's claims.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, header::HeaderValue};
use mesh::identity::Identity;

use crate::{
    access::Access,
    body::Body,
    failure::Failure,
    http::{
        HttpVersion,
        form::{self, is_switched_to},
        mesh_headers::{CLIENT_CERT, mark_unsent, server_version},
        respond::{Answer, Manner},
        serve::{self, Limits},
        upgrade,
    },
    metrics::Direction,
    net::{peek::Peeked, stream::Stream},
    proxy::Proxy,
    upstream::{self, Endpoint, SendError},
};

/// Serves the requests of one connection; over HTTP/2 until `until` is over.
pub async fn serve(
    mut context: Context,
    stream: Peeked<Box<dyn Stream>>,
    version: HttpVersion,
    limits: Limits,
    until: Option<Duration>,
) {
    let draining = context.proxy.draining.clone();
    context.caller = context.proxy.log.as_ref().and_then(|_| stream.socket().peer_addr().ok());
    let context = Arc::new(context);
    let handle = move |request| Arc::clone(&context).answer(request);
    serve::serve(stream, version, limits, until, draining, handle).await;
}

/// What the requests of one connection share.
pub struct Context {
    proxy: Arc<Proxy>,
    application: Arc<Endpoint>,
    server: SocketAddr,
    speaks: Speaks,
    /// Who calls, as the connection proved; and from where.
    peer: Option<Identity>,
    caller: Option<SocketAddr>,
    /// What the application reads of the caller; made once for a connection.
    client_cert: Option<HeaderValue>,
}

/// Whose words tell what the application speaks.
enum Speaks {
    /// The peer's proxy's, with each request.
    AsTheProxySays,
    /// The client's own.
    AsItsClient(HttpVersion),
}

impl Context {
    /// A peer's proxy.
    pub fn peer(proxy: &Arc<Proxy>, peer: Identity, server: SocketAddr) -> Self {
        Self::new(proxy, Some(peer), server, Speaks::AsTheProxySays)
    }

    /// A peer's application, whose connection came as bytes.
    pub fn tunnelled(proxy: &Arc<Proxy>, peer: Identity, server: SocketAddr, version: HttpVersion) -> Self {
        Self::new(proxy, Some(peer), server, Speaks::AsItsClient(version))
    }

    /// A caller outside the mesh, who has no identity.
    pub fn unmeshed(proxy: &Arc<Proxy>, server: SocketAddr, version: HttpVersion) -> Self {
        proxy.metrics.plaintext(server.port());
        Self::new(proxy, None, server, Speaks::AsItsClient(version))
    }

    fn new(proxy: &Arc<Proxy>, peer: Option<Identity>, server: SocketAddr, speaks: Speaks) -> Self {
        let client_cert = peer.as_ref().and_then(|peer| {
            let own = proxy.credentials.borrow();
            // Neither identity can hold a separator of this header: they are canonical.
            HeaderValue::try_from(format!("By={};URI={peer}", own.as_ref()?.identity)).ok()
        });
        Self {
            proxy: Arc::clone(proxy),
            application: proxy.registry.local(server),
            server,
            speaks,
            peer,
            caller: None,
            client_cert,
        }
    }

    async fn answer(self: Arc<Self>, mut request: Box<Request<Body>>) -> Answer {
        let manner = Manner::of(&request);
        let mut access = Access::begin(Direction::Inbound, &self.proxy, &request, self.server);
        access.caller(self.peer.as_ref(), self.caller);
        let outcome = self.try_answer(&mut request, &mut access).await;
        if outcome.is_ok() {
            access.served_on(self.server.port());
        }
        let unsent = outcome.as_ref().err().filter(|failure| failure.is_unsent()).map(Failure::reason);
        let mut answer = access.close(outcome, manner);
        if let (Ok(response), Some(reason)) = (&mut answer, unsent) {
            match self.speaks {
                Speaks::AsTheProxySays => mark_unsent(response, reason),
                // Without the mesh, the connection would have ended with its application, and the next one may go to
                // another pod of the Service.
                Speaks::AsItsClient(_) => serve::send_elsewhere(response),
            }
        }
        answer
    }

    async fn try_answer(
        &self,
        request: &mut Request<Body>,
        access: &mut Access,
    ) -> Result<Response<Body>, Failure> {
        access.has_room()?;
        form::check(request)?;
        access.passes(request.body_mut());
        let client = upgrade::side_of(request);
        // What the peer's proxy says is read before everything of its kind is taken off.
        let version = match self.speaks {
            Speaks::AsTheProxySays => server_version(request.headers()),
            Speaks::AsItsClient(version) => version,
        };
        let from_peer = match self.speaks {
            Speaks::AsTheProxySays => upgrade::from_connect(request),
            Speaks::AsItsClient(_) => None,
        };
        let connects = *request.method() == Method::CONNECT;
        if connects
            && (request.uri().authority().is_none()
                || !matches!(self.speaks, Speaks::AsItsClient(HttpVersion::Http1)))
        {
            return Err(Failure::BadRequest("CONNECT is for proxies that were asked to be one"));
        }
        let asked = form::receive(request);
        access.pass_on(request.headers_mut());
        if let Some(client_cert) = &self.client_cert {
            request.headers_mut().insert(CLIENT_CERT, client_cert.clone());
        }
        match from_peer.as_ref().or(asked.as_ref()) {
            _ if connects => Box::pin(self.connect(client, request, access)).await,
            None => self
                .application
                .send(request, version, upstream::now())
                .await
                .map_err(|error| self.failure(error)),
            Some(protocol) if !is_switched_to(protocol.as_bytes()) => {
                Err(Failure::BadRequest("this protocol is not switched to"))
            }
            // Boxed: the few that switch must not size every request's future.
            Some(protocol) => {
                let mut response = Box::pin(self.switch(client, request, protocol, access)).await?;
                if from_peer.is_some() {
                    upgrade::to_peer(&mut response);
                }
                Ok(response)
            }
        }
    }

    /// Hands a CONNECT to the application, which may be a proxy itself; only if it opens a tunnel do bytes flow.
    async fn connect(
        &self,
        client: Option<upgrade::Side>,
        request: &mut Request<Body>,
        access: &Access,
    ) -> Result<Response<Body>, Failure> {
        let response = self.application.send_as_it_is(request).await.map_err(|error| self.failure(error))?;
        Ok(upgrade::join_connect(client, response, access.room()))
    }

    /// Hands a request to switch protocols to the application, and joins the two sides if it agrees.
    async fn switch(
        &self,
        client: Option<upgrade::Side>,
        request: &mut Request<Body>,
        protocol: &HeaderValue,
        access: &Access,
    ) -> Result<Response<Body>, Failure> {
        let response =
            self.application.switch(request, protocol).await.map_err(|error| self.failure(error))?;
        Ok(upgrade::join(client, response, access.room()))
    }

    fn failure(&self, error: SendError) -> Failure {
        match error {
            SendError::NotSent(source) => Failure::Connect { endpoint: self.application.addr, source },
            SendError::Reset(reason) => Failure::Reset(reason),
            SendError::Broken(error) => Failure::Exchange(error),
        }
    }
}

#[cfg(test)]
mod tests;
