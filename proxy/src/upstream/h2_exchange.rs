//! One request and its response, on a stream of an HTTP/2 connection.
//!
//! h2 itself, instead of hyper's client: the request's own task sends its body and waits for the response, so that an
//! exchange costs no task, no channel, and no waking of another task between it and the connection's.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    ext::Protocol,
};
use hyper::{
    Method, Request, Response,
    body::{Body as _, Bytes},
};
use tokio::sync::oneshot;
use tracing::debug;

use crate::{
    body::{Body, Source},
    http::{
        self,
        duplex::Duplex,
        form,
        h2_body::{Received, Sending, Stopped},
        upgrade,
    },
};

/// Why there is no response.
pub(super) enum Unanswered {
    /// The connection did not take the request.
    Unsent(h2::Error),
    /// The stream ended without one.
    Ended(h2::Error),
    /// The client broke its request off, in this way.
    Client(http::Error),
}

/// A response, and what is left to be sent of its request's body: a server may answer before it has all of it.
pub(super) type Answered = (Response<Source>, Option<Box<Sending>>);

/// A request that was sent, and waits for the head of its response. Dropped before, it resets its stream.
pub(super) struct H2Exchange {
    response: ResponseFuture,
    sends: Sends,
}

/// What goes the way of the request's body.
enum Sends {
    /// Nothing any more.
    Nothing,
    /// What is left of it.
    Body(Box<Sending>),
    /// The bytes of a tunnel, if the server opens one.
    Tunnel(SendStream<Bytes>),
}

impl H2Exchange {
    /// Sends a request's head, and what there is of its body.
    pub(super) fn begin(
        sender: &mut SendRequest<Bytes>,
        request: &Request<Body>,
        body: Body,
    ) -> Result<Self, Unanswered> {
        let connects = *request.method() == Method::CONNECT;
        let whole = !connects && body.is_end_stream();
        let (response, stream) = sender.send_request(head(request), whole).map_err(Unanswered::Unsent)?;
        let sends = match (connects, whole) {
            (true, _) => Sends::Tunnel(stream),
            (false, true) => Sends::Nothing,
            (false, false) => Sends::Body(Box::new(Sending::new(stream, body))),
        };
        Ok(Self { response, sends })
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Unanswered>> {
        if let Sends::Body(body) = &mut self.sends
            && let Poll::Ready(sent) = body.poll(cx)
        {
            self.sends = Sends::Nothing;
            if let Err(Stopped::Broke(error)) = sent {
                return Poll::Ready(Err(Unanswered::Client(error)));
            }
            // A reader that takes no more of it may have answered; if not, the stream's end says why.
        }
        Pin::new(&mut self.response).poll(cx).map_err(Unanswered::Ended)
    }

    fn answered(&mut self, response: Response<RecvStream>) -> Answered {
        let (mut head, stream) = response.into_parts();
        let rest = match std::mem::replace(&mut self.sends, Sends::Nothing) {
            Sends::Body(rest) => Some(rest),
            Sends::Tunnel(to_server) if head.status.is_success() => {
                let (opened, promise) = upgrade::promise();
                // It cannot fail: the promise is still here.
                let _ = opened.send(Duplex::new(to_server, stream));
                head.extensions.insert(promise);
                return (Response::from_parts(head, Source::Nothing), None);
            }
            Sends::Nothing | Sends::Tunnel(_) => None,
        };
        let source = Source::from(Received::after(&head.headers, stream));
        (Response::from_parts(head, source), rest)
    }
}

impl Future for H2Exchange {
    type Output = Result<Answered, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.poll_response(cx))?;
        Poll::Ready(Ok(self.answered(response)))
    }
}

/// The use of a stream, until both its response and what was left of its request have ended.
pub(super) struct Held {
    _stream: Arc<()>,
    /// Tells whoever sends the rest that the response has ended. Dropped before, it resets the stream: nobody wants an answer
    /// any more.
    rest: Option<oneshot::Sender<()>>,
}

impl Held {
    pub(super) fn new(stream: Arc<()>, rest: Option<Box<Sending>>) -> Self {
        let rest = rest.map(|rest| {
            let (answered, held) = oneshot::channel();
            tokio::spawn(send_rest(rest, held, Arc::clone(&stream)));
            answered
        });
        Self { _stream: stream, rest }
    }

    /// The response has come to its end.
    pub(super) fn ended(self) {
        if let Some(rest) = self.rest {
            // It may have come to its own end.
            let _ = rest.send(());
        }
    }
}

/// Sends the rest of a request, which may end after its response.
async fn send_rest(mut rest: Box<Sending>, answered: oneshot::Receiver<()>, _stream: Arc<()>) {
    let mut answered = Some(answered);
    poll_fn(|cx| {
        if let Some(Poll::Ready(ended)) = answered.as_mut().map(|answered| Pin::new(answered).poll(cx)) {
            answered = None;
            if ended.is_err() {
                rest.reset(h2::Reason::CANCEL);
                return Poll::Ready(());
            }
        }
        rest.poll(cx).map(|sent| {
            if let Err(error) = sent {
                debug!(%error, "a request was not sent to its end");
            }
        })
    })
    .await;
}

/// A request's head, once more: it may have to be sent again.
fn head(request: &Request<Body>) -> Request<()> {
    let mut head = form::head_again(request);
    form::for_stream(head.headers_mut());
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        head.extensions_mut().insert(protocol.clone());
    }
    head
}
