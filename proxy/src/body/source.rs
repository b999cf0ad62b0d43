//! Where a body that passes comes from.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};

use crate::http::{Error, h2_body::Received};

/// The other side of an exchange, which sends a body.
pub enum Source {
    /// It sends none.
    Nothing,
    /// Over HTTP/1.
    Http1(Incoming),
    /// Over HTTP/2.
    Http2(Received),
}

impl Source {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Error::from),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    /// Whether the last frame has been given out.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// How much is still to come.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Http1(body)
    }
}

impl From<Option<Received>> for Source {
    fn from(body: Option<Received>) -> Self {
        body.map_or(Self::Nothing, Self::Http2)
    }
}
