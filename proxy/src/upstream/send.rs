//! Sending one request to an endpoint, over whichever connection suits.

use std::sync::Arc;

use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header::HeaderValue,
};

use super::{
    Endpoint, Load, Transport,
    again::{self, Again, SendError},
    h2_pool,
};
use crate::{
    body::{Body, Follower, Passed},
    failure::ConnectError,
    http::{HttpVersion, form, mesh_headers, upgrade},
};

/// What must stay held until a response has ended.
struct Exchange {
    endpoint: Arc<Endpoint>,
    held: Option<(Held, Load)>,
}

enum Held {
    /// A connection that goes back to its pool.
    Connection(http1::SendRequest<Body>),
    /// A stream of a shared connection.
    Stream { _stream: Arc<()> },
    /// Nothing: the connection serves this exchange alone.
    Alone,
}

type Sent = Result<(Response<Incoming>, Held), SendError>;

/// How often a request goes over another connection of the same endpoint.
struct Left {
    /// When the connection was on its way out: servers that end them often have several at once.
    ended: u8,
    /// When the stream was refused: a bound that we have just learned of.
    refused: u8,
    /// When a kept connection was dead, and the request may be made twice.
    broke: u8,
}

impl Left {
    const ALL: Self = Self { ended: 7, refused: 2, broke: 1 };

    fn take(&mut self, why: &ConnectError) -> bool {
        let left = match why {
            ConnectError::NotTaken(_) => &mut self.ended,
            ConnectError::Refused(_) => &mut self.refused,
            ConnectError::Http(_) => &mut self.broke,
            ConnectError::Io(_)
            | ConnectError::Timeout(_)
            | ConnectError::Tls(_)
            | ConnectError::NoCertificate
            | ConnectError::Unnameable
            | ConnectError::AtPeer(_)
            | ConnectError::Shared { .. } => return false,
        };
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }
}

impl Follower for Exchange {
    /// When the response has come to its end, its connection can carry the next request; a broken one cannot.
    fn passed(&mut self, passed: &Passed<'_>) {
        let ended = match passed {
            Passed::Data(_) | Passed::Trailers(_) => return,
            Passed::End => true,
            Passed::Break => false,
        };
        if let Some((Held::Connection(sender), _load)) = self.held.take()
            && ended
        {
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
        let mut load = self.carry();
        let sent = match (&self.transport, version) {
            (Transport::Mesh(_), _) => {
                form::for_peer(&mut request, self.addr, version);
                self.send_h2(request, &mut load).await
            }
            (Transport::Plain, HttpVersion::Http2) => {
                form::for_h2(&mut request, self.addr);
                self.send_h2(request, &mut load).await
            }
            (Transport::Plain, HttpVersion::Http1) => {
                form::for_h1(&mut request);
                self.send_h1(request, &mut load).await
            }
            (Transport::Unnameable, _) => Err(unnameable(request)),
        };
        let (mut response, held) = load.judge(sent)?;
        form::clean_response(&mut response);
        let exchange = self.exchange(held, load);
        Ok(response.map(|body| Body::carried(body, exchange)))
    }

    /// Sends a request that asks to switch to `protocol`. A 101 comes back as one, whichever way it came; its body
    /// holds the exchange for as long as the switched streams run.
    ///
    /// # Errors
    /// As [`Endpoint::send`]; a request that was not sent comes back as it was.
    pub async fn switch(
        self: &Arc<Self>,
        mut request: Request<Body>,
        protocol: &HeaderValue,
    ) -> Result<Response<Body>, SendError> {
        let mut load = self.carry();
        let sent = match self.transport {
            Transport::Mesh(_) => {
                form::for_peer(&mut request, self.addr, HttpVersion::Http1);
                upgrade::into_connect(&mut request, protocol);
                self.send_h2(request, &mut load).await.map_err(|error| match error {
                    SendError::NotSent(error, mut request) => {
                        upgrade::from_connect(&mut request);
                        SendError::NotSent(error, request)
                    }
                    other @ (SendError::Reset(_) | SendError::Broken(_)) => other,
                })
            }
            Transport::Plain => {
                form::for_h1(&mut request);
                upgrade::ask(&mut request, protocol);
                self.send_alone(request, &mut load).await
            }
            Transport::Unnameable => Err(unnameable(request)),
        };
        let (mut response, held) = load.judge(sent)?;
        if self.identity().is_some() {
            upgrade::from_peer(&mut response);
        }
        let exchange = self.exchange(held, load);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|body| Body::switched(body, exchange)));
        }
        form::clean_response(&mut response);
        Ok(response.map(|body| Body::carried(body, exchange)))
    }

    /// Sends an HTTP/1 request in its client's own form, over a connection of its own: the server is a proxy itself.
    /// Between mesh proxies that is a tunnel, since HTTP/2 tells neither an absolute target nor a CONNECT of HTTP/1's.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub async fn send_as_it_is(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let mut load = self.carry();
        form::for_h1(&mut request);
        let connects = *request.method() == Method::CONNECT;
        let sent = self.send_alone(request, &mut load).await;
        let (mut response, held) = load.judge(sent)?;
        if connects && form::is_no_tunnel(&response) {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        form::clean_response(&mut response);
        let exchange = self.exchange(held, load);
        let opened = connects && response.status().is_success();
        Ok(response.map(|body| match opened {
            true => Body::switched(body, exchange),
            false => Body::carried(body, exchange),
        }))
    }

    fn exchange(self: &Arc<Self>, held: Held, load: Load) -> Box<Exchange> {
        Box::new(Exchange { endpoint: Arc::clone(self), held: Some((held, load)) })
    }

    /// Sends over a shared connection, and over a newer one when a kept one turns out to be on its way out.
    async fn send_h2(&self, mut request: Request<Body>, load: &mut Load) -> Sent {
        let mut left = Left::ALL;
        loop {
            let lease = match self.h2.lease(self).await {
                Ok(lease) => lease,
                Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
            };
            load.sent();
            let kept = lease.kept;
            match send_over(lease, request, self.identity().is_some()).await {
                Err(SendError::NotSent(why, unsent)) if kept && left.take(&why) => request = *unsent,
                sent => return sent,
            }
        }
    }

    async fn send_h1(&self, mut request: Request<Body>, load: &mut Load) -> Sent {
        let mut repeated = false;
        loop {
            let mut lease = match self.h1.lease(self).await {
                Ok(lease) => lease,
                Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
            };
            load.sent();
            // Only what is safe and empty can be made again if a kept connection turns out to be dead
            // (RFC 9110 section 9.2.2); hyper gives back whatever it had not begun to write.
            let repeatable = lease.reused && !repeated && form::is_repeatable(&request);
            let again = repeatable.then(|| form::repeat(&request));
            let mut error = match lease.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Held::Connection(lease.sender))),
                Err(error) => error,
            };
            let given_back = error.take_message();
            repeated |= given_back.is_none();
            // What is no response was made by a server that lives.
            let again = again.filter(|_| !error.error().is_parse());
            match given_back.or(again).filter(|_| lease.reused) {
                Some(unsent) => request = unsent,
                None => return Err(SendError::from(error)),
            }
        }
    }

    async fn send_alone(&self, request: Request<Body>, load: &mut Load) -> Sent {
        let mut lease = match self.h1.fresh(self).await {
            Ok(lease) => lease,
            Err(error) => return Err(SendError::NotSent(error, Box::new(request))),
        };
        load.sent();
        let response = lease.sender.try_send_request(request).await.map_err(SendError::from)?;
        Ok((response, Held::Alone))
    }
}

/// `peer`: what answers is a mesh proxy, whose word on its application is believed.
async fn send_over(mut lease: h2_pool::Lease, request: Request<Body>, peer: bool) -> Sent {
    let (request, again) = again::remember(request);
    match lease.sender.try_send_request(request).await {
        Ok(response) if peer => answered(response, lease.stream, again),
        Ok(response) => Ok((response, Held::Stream { _stream: lease.stream })),
        Err(mut error) => Err(match error.take_message() {
            Some(unsent) => again::not_taken(error.into_error(), unsent),
            None => again.after(error.into_error(), lease.kept),
        }),
    }
}

/// A peer's proxy may answer that its application did not get the request.
fn answered(response: Response<Incoming>, stream: Arc<()>, again: Again) -> Sent {
    if let Some(reason) = mesh_headers::unsent(&response)
        && let Some(request) = again.request()
    {
        return Err(SendError::NotSent(ConnectError::AtPeer(reason), Box::new(request)));
    }
    Ok((response, Held::Stream { _stream: stream }))
}

fn unnameable(request: Request<Body>) -> SendError {
    SendError::NotSent(ConnectError::Unnameable, Box::new(request))
}
