//! Sending one request to an endpoint, over whichever connection suits.

use std::sync::Arc;

use hyper::{
    Request, Response,
    client::conn::{TrySendError, http1},
};

use super::{Endpoint, Load, Transport};
use crate::{
    body::Body,
    failure::ConnectError,
    http::{HttpVersion, form},
};

/// Why a request got no response.
pub enum SendError {
    /// It was not sent: it may go to another endpoint.
    NotSent(ConnectError, Box<Request<Body>>),
    /// It was sent, wholly or in part, and no response came.
    Broken(hyper::Error),
}

/// What must stay held until a response has ended.
pub struct Exchange {
    endpoint: Arc<Endpoint>,
    held: Held,
    _load: Load,
}

enum Held {
    /// A connection that goes back to its pool.
    Connection(http1::SendRequest<Body>),
    /// A stream of a shared connection.
    Stream { _stream: Arc<()> },
    /// Nothing: the connection served this exchange alone.
    Alone,
}

impl Exchange {
    /// The response has come to its end: the connection can carry the next request.
    pub fn finish(self) {
        if let Held::Connection(sender) = self.held {
            self.endpoint.h1.put(sender);
        }
    }
}

impl Endpoint {
    /// Sends a request and waits for the head of the response, whose body holds what must be held. `version` is what
    /// the server itself speaks; between proxies it is always HTTP/2.
    ///
    /// # Errors
    /// Tells whether the request may be sent again.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<Body>,
        version: HttpVersion,
    ) -> Result<Response<Body>, SendError> {
        let load = self.carry();
        let (response, held) = match (&self.transport, version) {
            (Transport::Mesh(_), _) => {
                form::for_peer(&mut request, self.addr, version);
                self.send_h2(request).await?
            }
            (Transport::Plain, HttpVersion::Http2) => {
                form::for_h2(&mut request, self.addr);
                self.send_h2(request).await?
            }
            (Transport::Plain, HttpVersion::Http1) => {
                form::for_h1(&mut request);
                self.send_h1(request).await?
            }
            (Transport::Unnameable, _) => {
                return Err(SendError::NotSent(ConnectError::NoCertificate, Box::new(request)));
            }
        };
        let exchange = Exchange { endpoint: Arc::clone(self), held, _load: load };
        Ok(response.map(|body| Body::carried(body, exchange)))
    }

    async fn send_h2(
        &self,
        request: Request<Body>,
    ) -> Result<(Response<hyper::body::Incoming>, Held), SendError> {
        let mut lease = match self.h2.lease(self).await {
            Ok(lease) => lease,
            Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
        };
        let response = lease.sender.try_send_request(request).await.map_err(SendError::from)?;
        Ok((response, Held::Stream { _stream: lease.stream }))
    }

    async fn send_h1(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<hyper::body::Incoming>, Held), SendError> {
        loop {
            let mut lease = match self.h1.lease(self).await {
                Ok(lease) => lease,
                Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
            };
            // Only what is safe and empty can be made again if a kept connection turns out to be dead
            // (RFC 9110 section 9.2.2); hyper gives back whatever it had not begun to write.
            let again = (lease.reused && form::is_repeatable(&request)).then(|| form::repeat(&request));
            match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Held::Connection(lease.sender))),
                Err(mut error) => match error.take_message().or(again).filter(|_| lease.reused) {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::from(error)),
                },
            }
        }
    }

    /// Sends a request that asks to switch protocols, on a connection of its own.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub async fn send_alone(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let load = self.carry();
        form::for_h1_keeping_upgrade(&mut request);
        let mut lease = match self.h1.fresh(self).await {
            Ok(lease) => lease,
            Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
        };
        let response = lease.sender.try_send_request(request).await.map_err(SendError::from)?;
        let exchange = Exchange { endpoint: Arc::clone(self), held: Held::Alone, _load: load };
        Ok(response.map(|body| Body::carried(body, exchange)))
    }
}

impl From<TrySendError<Request<Body>>> for SendError {
    fn from(mut error: TrySendError<Request<Body>>) -> Self {
        match error.take_message() {
            Some(request) => Self::NotSent(ConnectError::Http(error.into_error()), Box::new(request)),
            None => Self::Broken(error.into_error()),
        }
    }
}
