//! Sending one request to an endpoint, over whichever connection suits.

use std::{sync::Arc, time::Duration};

use hyper::{Method, Request, Response, StatusCode, client::conn::http1, header::HeaderValue};

use super::{
    Endpoint, Load, Transport,
    again::{self, SendError},
    endpoint,
    h2_exchange::{self, H2Exchange},
    h2_pool,
};
use crate::{
    body::{Body, Follower, Passed, Source},
    failure::ConnectError,
    http::{HttpVersion, form, mesh_headers, upgrade},
};

/// What must stay held until a response has ended.
struct Exchange(Option<(Held, Load)>);

enum Held {
    /// A connection that goes back to its pool.
    Connection(http1::SendRequest<Body>),
    /// A stream of a shared connection.
    Stream(h2_exchange::Held),
    /// Nothing: the connection serves this exchange alone.
    Alone,
}

type Sent = Result<(Response<Source>, Held), SendError>;

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
        match self.0.take().filter(|_| ended) {
            Some((Held::Connection(sender), load)) => load.endpoint().h1.put(sender),
            Some((Held::Stream(stream), _load)) => stream.ended(),
            Some((Held::Alone, _)) | None => (),
        }
    }
}

impl Endpoint {
    /// Sends a request now and waits for the head of the response, whose body holds what must be held. `version` is what
    /// the server itself speaks; between proxies it is always HTTP/2. A request that was not sent can be sent again.
    ///
    /// # Errors
    /// Tells whether the request may be sent again.
    pub async fn send(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        version: HttpVersion,
        now: Duration,
    ) -> Result<Response<Body>, SendError> {
        let mut load = self.carry(now);
        let sent = match (&self.transport, version) {
            (Transport::Mesh(_), _) => {
                form::for_peer(request, self.addr, version);
                self.send_h2(request, &mut load, now).await
            }
            (Transport::Plain, HttpVersion::Http2) => {
                form::for_h2(request, self.addr);
                self.send_h2(request, &mut load, now).await
            }
            (Transport::Plain, HttpVersion::Http1) => {
                form::for_h1(request);
                self.send_h1(request, &mut load, now).await
            }
            (Transport::Unnameable, _) => Err(SendError::NotSent(ConnectError::Unnameable)),
        };
        load.judge(&sent);
        let (mut response, held) = sent?;
        form::clean_response(&mut response);
        let exchange = Box::new(Exchange(Some((held, load))));
        let status = response.status();
        Ok(response.map(|body| Body::carried(status, body, exchange)))
    }

    /// Sends a request that asks to switch to `protocol`. A 101 comes back as one, whichever way it came; its body
    /// holds the exchange for as long as the switched streams run.
    ///
    /// # Errors
    /// As [`Endpoint::send`]; a request that was not sent comes back as it was.
    pub async fn switch(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        protocol: &HeaderValue,
    ) -> Result<Response<Body>, SendError> {
        let mut load = self.carry(endpoint::now());
        let sent = match self.transport {
            Transport::Mesh(_) => {
                form::for_peer(request, self.addr, HttpVersion::Http1);
                upgrade::into_connect(request, protocol);
                let sent = self.send_h2(request, &mut load, endpoint::now()).await;
                if let Err(SendError::NotSent(_)) = sent {
                    upgrade::from_connect(request);
                }
                sent
            }
            Transport::Plain => {
                form::for_h1(request);
                upgrade::ask(request, protocol);
                self.send_alone(request, &mut load).await
            }
            Transport::Unnameable => Err(SendError::NotSent(ConnectError::Unnameable)),
        };
        load.judge(&sent);
        let (mut response, held) = sent?;
        if self.identity().is_some() {
            upgrade::from_peer(&mut response);
        }
        let exchange = Box::new(Exchange(Some((held, load))));
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            mesh_headers::strip(response.headers_mut());
            return Ok(response.map(|body| Body::switched(body, exchange)));
        }
        form::clean_response(&mut response);
        let status = response.status();
        Ok(response.map(|body| Body::carried(status, body, exchange)))
    }

    /// Sends an HTTP/1 request in its client's own form, over a connection of its own: the server is a proxy itself.
    /// Between mesh proxies that is a tunnel, since HTTP/2 tells neither an absolute target nor a CONNECT of HTTP/1's.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub async fn send_as_it_is(
        self: &Arc<Self>,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let mut load = self.carry(endpoint::now());
        form::for_h1(request);
        let connects = *request.method() == Method::CONNECT;
        let sent = self.send_alone(request, &mut load).await;
        load.judge(&sent);
        let (mut response, held) = sent?;
        if connects && form::is_no_tunnel(&response) {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        form::clean_response(&mut response);
        let exchange = Box::new(Exchange(Some((held, load))));
        let status = response.status();
        let opened = connects && status.is_success();
        Ok(response.map(|body| match opened {
            true => Body::switched(body, exchange),
            false => Body::carried(status, body, exchange),
        }))
    }

    /// Sends over a shared connection, and over a newer one when a kept one turns out to be on its way out.
    async fn send_h2(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        load: &mut Load,
        mut now: Duration,
    ) -> Sent {
        let mut left = Left::ALL;
        loop {
            let lease = h2_pool::Pool::lease(self, now).await.map_err(SendError::NotSent)?;
            load.sent(lease.since);
            let kept = lease.kept;
            match send_over(lease, request, self.identity().is_some()).await {
                Err(SendError::NotSent(why)) if kept && left.take(&why) => now = endpoint::now(),
                sent => return sent,
            }
        }
    }

    async fn send_h1(&self, request: &mut Request<Body>, load: &mut Load, mut now: Duration) -> Sent {
        let mut repeated = false;
        loop {
            let mut lease = self.h1.lease(self, now).await.map_err(SendError::NotSent)?;
            load.sent(lease.since);
            // Only what is safe and empty can be made again if a kept connection turns out to be dead
            // (RFC 9110 section 9.2.2); hyper gives back whatever it had not begun to write.
            let repeatable = lease.reused && !repeated && form::is_repeatable(request);
            let sent = if repeatable { form::repeat(request) } else { std::mem::take(request) };
            let mut error = match lease.sender.try_send_request(sent).await {
                Ok(response) => return Ok((response.map(Source::from), Held::Connection(lease.sender))),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) => {
                    *request = unsent;
                    if !lease.reused {
                        return Err(SendError::NotSent(ConnectError::NotTaken(error.into_error().into())));
                    }
                }
                // What is no response was made by a server that lives.
                None if repeatable && !error.error().is_parse() => repeated = true,
                None => return Err(SendError::Broken(error.into_error().into())),
            }
            now = endpoint::now();
        }
    }

    async fn send_alone(&self, request: &mut Request<Body>, load: &mut Load) -> Sent {
        let mut lease = self.h1.fresh(self).await.map_err(SendError::NotSent)?;
        load.sent(lease.since);
        match lease.sender.try_send_request(std::mem::take(request)).await {
            Ok(response) => Ok((response.map(Source::from), Held::Alone)),
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => {
                    *request = unsent;
                    SendError::NotSent(ConnectError::NotTaken(error.into_error().into()))
                }
                None => SendError::Broken(error.into_error().into()),
            }),
        }
    }
}

/// `peer`: what answers is a mesh proxy, whose word on its application is believed.
async fn send_over(mut lease: h2_pool::Lease, request: &mut Request<Body>, peer: bool) -> Sent {
    let (body, again) = again::remember(request);
    let sent = match H2Exchange::begin(&mut lease.sender, request, body) {
        Ok(exchange) => exchange.await,
        Err(unsent) => Err(unsent),
    };
    let (response, rest) = match sent {
        Ok(answered) => answered,
        Err(unanswered) => return Err(again.after(unanswered, lease.kept, request)),
    };
    // A peer's proxy may answer that its application did not get the request.
    match peer.then(|| mesh_headers::unsent(&response)).flatten() {
        Some(reason) if again.restore(request) => Err(SendError::NotSent(ConnectError::AtPeer(reason))),
        _ => Ok((response, Held::Stream(h2_exchange::Held::new(lease.stream, rest)))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::hot_path::World;

    #[tokio::test]
    async fn what_an_application_says_in_the_meshs_name_is_removed_from_a_switch_too() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let world = World::new();
        let endpoint = world.proxy.registry.endpoint(server.local_addr().expect("an address"), None);
        let answers = tokio::spawn(async move {
            let mut client = server.accept().await.expect("a connection").0;
            client.read_u8().await.expect("a request");
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\
                          Heddle-Unsent: connection_refused\r\nX-Kept: 1\r\n\r\n";
            client.write_all(answer.as_bytes()).await.expect("an answer");
            client
        });
        let mut request = Request::get("http://web/").body(Body::empty()).expect("a request");
        let response = endpoint.switch(&mut request, &HeaderValue::from_static("x")).await;
        let response = response.map_err(|_| ()).expect("it switches");
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(response.headers().contains_key("x-kept") && mesh_headers::unsent(&response).is_none());
        drop(answers.await.expect("no panic"));
    }
}
