//! Requests to this pod, handed to the application with the caller's proven identity and with nobody's claims.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, Response, StatusCode, body::Incoming, header::HeaderValue};
use mesh::identity::Identity;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::{
    access::Access,
    body::Body,
    failure::Failure,
    http::{
        HttpVersion,
        form::{CLIENT_CERT, objection, server_version, strip_mesh_headers, upgrade_asked},
        respond,
        serve::{self, Limits},
        upgrade,
    },
    metrics::{Direction, Security},
    net::peek::Peeked,
    proxy::Proxy,
    upstream::{Endpoint, SendError},
};

/// Serves a peer's requests until `until` is over.
pub async fn serve_peer(
    proxy: &Arc<Proxy>,
    tls: TlsStream<Peeked>,
    peer: Identity,
    server: SocketAddr,
    until: Duration,
) {
    let context = Arc::new(Context::new(proxy, Some(peer), server, None));
    let handle = move |request| {
        let context = Arc::clone(&context);
        async move { context.answer(request).await }
    };
    let ended = serve::http2(tls, Limits::PEER, Some(until), proxy.draining.clone(), handle).await;
    if let Err(error) = ended {
        debug!(%server, %error, "a peer's connection ended early");
    }
}

/// Serves the requests of a caller outside the mesh, who has no identity.
pub async fn serve_unmeshed(proxy: &Arc<Proxy>, stream: Peeked, server: SocketAddr, version: HttpVersion) {
    let context = Arc::new(Context::new(proxy, None, server, Some(version)));
    let handle = move |request| {
        let context = Arc::clone(&context);
        async move { context.answer(request).await }
    };
    let draining = proxy.draining.clone();
    let ended = match version {
        HttpVersion::Http1 => serve::http1(stream, Limits::UNMESHED, draining, handle).await,
        HttpVersion::Http2 => serve::http2(stream, Limits::UNMESHED, None, draining, handle).await,
    };
    if let Err(error) = ended {
        debug!(%server, %error, "an unmeshed caller's connection ended early");
    }
}

struct Context {
    proxy: Arc<Proxy>,
    application: Arc<Endpoint>,
    server: SocketAddr,
    /// What a caller outside the mesh speaks.
    unmeshed: Option<HttpVersion>,
    /// What the application reads of the caller; made once for a connection.
    client_cert: Option<HeaderValue>,
}

impl Context {
    fn new(
        proxy: &Arc<Proxy>,
        peer: Option<Identity>,
        server: SocketAddr,
        unmeshed: Option<HttpVersion>,
    ) -> Self {
        let own = proxy.config.identity().ok();
        let client_cert = peer.zip(own).and_then(|(peer, own)| {
            // Neither identity can hold a separator of this header: they are canonical.
            HeaderValue::try_from(format!("By={own};URI={peer}")).ok()
        });
        Self {
            proxy: Arc::clone(proxy),
            application: proxy.registry.local(server),
            server,
            unmeshed,
            client_cert,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut access = Access::begin(Direction::Inbound, &self.proxy, &request, self.server);
        access.security(if self.client_cert.is_some() { Security::Mtls } else { Security::None });
        let response = match self.try_answer(request).await {
            Ok(response) => response,
            Err(failure) => {
                access.failed(&failure);
                respond::failure(&failure)
            }
        };
        access.end(&response);
        response
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let _room = self.proxy.requests.try_acquire().map_err(|_| Failure::Overloaded)?;
        if let Some(objection) = objection(&request) {
            return Err(Failure::BadRequest(objection));
        }
        let mut request = request.map(Body::passing);
        let version = self.server_version(&request);
        strip_mesh_headers(request.headers_mut());
        if let Some(client_cert) = &self.client_cert {
            request.headers_mut().insert(CLIENT_CERT, client_cert.clone());
        }
        let client = upgrade::client_side(&mut request);
        let from_peer = upgrade::from_connect(&mut request).is_some();
        if from_peer || upgrade_asked(request.headers()).is_some() {
            return self.switch(client, request, from_peer).await;
        }
        self.application.send(request, version).await.map_err(|error| self.failure(error))
    }

    /// What the application speaks: what its client does, whose proxy says so; or what an unmeshed client itself speaks.
    fn server_version(&self, request: &Request<Body>) -> HttpVersion {
        match self.unmeshed {
            Some(version) => version,
            None => server_version(request.headers()),
        }
    }

    /// Hands a request to switch protocols to the application, and joins the two sides if it agrees.
    async fn switch(
        &self,
        client: hyper::upgrade::OnUpgrade,
        request: Request<Body>,
        from_peer: bool,
    ) -> Result<Response<Body>, Failure> {
        let response = self.application.send_alone(request).await.map_err(|error| self.failure(error))?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let response = if switched { upgrade::join(client, response) } else { response };
        Ok(if from_peer { upgrade::to_peer(response) } else { response })
    }

    fn failure(&self, error: SendError) -> Failure {
        match error {
            SendError::NotSent(source, _) => Failure::Connect { endpoint: self.application.addr, source },
            SendError::Broken(error) => Failure::Exchange(error),
        }
    }
}
