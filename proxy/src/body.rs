//! The body of every request and response that passes: a stream from the other side, or our own few words.
//!
//! A response's body holds its exchange (connection, stream, load) and lets go at the very end of the body, not at
//! its head: only then may the connection carry another request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use crate::upstream::Exchange;

/// A body on its way through the proxy.
#[derive(Default)]
pub struct Body {
    from: From,
    exchange: Option<Box<Exchange>>,
}

#[derive(Default)]
enum From {
    #[default]
    Nothing,
    Ourselves(Bytes),
    Other(Incoming),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Words of our own.
    pub fn words(words: impl Into<Bytes>) -> Self {
        Self { from: From::Ourselves(words.into()), exchange: None }
    }

    /// What the client sends.
    pub fn passing(body: Incoming) -> Self {
        Self { from: From::Other(body), exchange: None }
    }

    /// What an endpoint answers.
    pub fn carried(body: Incoming, exchange: Exchange) -> Self {
        let mut body = Self { from: From::Other(body), exchange: Some(Box::new(exchange)) };
        body.let_go_at_end();
        body
    }

    fn let_go_at_end(&mut self) {
        if self.is_end_stream()
            && let Some(exchange) = self.exchange.take()
        {
            exchange.finish();
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.from {
            From::Nothing => None,
            From::Ourselves(bytes) => {
                let bytes = std::mem::take(bytes);
                self.from = From::Nothing;
                Some(Ok(Frame::data(bytes)))
            }
            From::Other(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        match &frame {
            None => {
                self.from = From::Nothing;
                self.let_go_at_end();
            }
            Some(Ok(_)) => self.let_go_at_end(),
            Some(Err(_)) => drop(self.exchange.take()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Nothing => true,
            From::Ourselves(bytes) => bytes.is_empty(),
            From::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Nothing => SizeHint::with_exact(0),
            From::Ourselves(bytes) => SizeHint::with_exact(bytes.len() as u64),
            From::Other(body) => body.size_hint(),
        }
    }
}
