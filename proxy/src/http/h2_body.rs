//! Bodies over HTTP/2: what comes of one on a stream, and what goes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{Reason, RecvStream, SendStream};
use hyper::{
    HeaderMap,
    body::{Body as _, Bytes, Frame, SizeHint},
    header::CONTENT_LENGTH,
};

use super::Error;
use crate::body::Body;

/// A body that comes on a stream. What is given out may be sent again: its reader holds one frame at a time.
pub struct Received {
    stream: RecvStream,
    /// How much is still to come, where the head said how much there is.
    left: Option<u64>,
    data_ended: bool,
    /// Nothing comes any more; what is known is not asked of the stream, which is locked for each answer.
    ended: bool,
}

impl Received {
    /// What follows a head; `None` where the head ended the stream.
    pub fn after(headers: &HeaderMap, stream: RecvStream) -> Option<Self> {
        if stream.is_end_stream() {
            return None;
        }
        // One that is no number h2 has refused with its head.
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        Some(Self {
            stream,
            left: length.and_then(|length| length.parse().ok()),
            data_ended: false,
            ended: false,
        })
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.ended = self.stream.is_end_stream();
                    // It only fails for more than has come.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.cut(error)),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(Frame::trailers).map(Ok),
            Err(error) => self.cut(error),
        })
    }

    /// A server that has answered may say with NO_ERROR that it needs no more of the request (RFC 9113 section 8.1), and h2
    /// then forgets that the answer was whole.
    fn cut(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, Error>> {
        let whole =
            error.reason() == Some(Reason::NO_ERROR) && error.is_reset() && self.left.unwrap_or(0) == 0;
        (!whole).then(|| Err(error.into()))
    }

    /// Whether the last frame has been given out.
    pub fn is_end_stream(&self) -> bool {
        self.ended
    }

    /// How much is still to come.
    pub fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body that goes on a stream, as fast as its reader takes it.
pub struct Sending {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data that waits for room, and whether it is the last. The first goes at once: the stream holds it instead of us.
    waiting: Option<(Bytes, bool)>,
    begun: bool,
}

/// Why a body was not sent to its end. Its stream has been reset.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// Whoever reads it has reset the stream, or its connection has ended.
    #[error("its reader has ended it")]
    ByReader(#[source] h2::Error),
    /// It broke off.
    #[error("it broke off")]
    Broke(#[source] Error),
}

impl Sending {
    /// A body that has not ended yet.
    pub fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, waiting: None, begun: false }
    }

    /// Sends what there is of it; ready when all of it has been.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        if let Poll::Ready(ended) = self.advance(cx) {
            return Poll::Ready(ended);
        }
        // Nothing else tells that nobody reads any more while the body has nothing to say.
        let reset = ready!(self.stream.poll_reset(cx));
        Poll::Ready(Err(Stopped::ByReader(reset.map_or_else(|error| error, h2::Error::from))))
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if let Some((data, _)) = &self.waiting {
                if self.begun && !data.is_empty() {
                    ready!(poll_room(&mut self.stream, cx)).map_err(Stopped::ByReader)?;
                }
                self.begun = true;
            }
            if let Some((data, last)) = self.waiting.take() {
                self.stream.send_data(data, last).map_err(Stopped::ByReader)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream.send_reset(error.reset());
                    return Poll::Ready(Err(Stopped::Broke(error)));
                }
                None => {
                    let ended = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(ended.map_err(Stopped::ByReader));
                }
            };
            match frame.into_data() {
                Ok(data) => self.waiting = Some((data, self.body.is_end_stream())),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(Stopped::ByReader));
                    }
                }
            }
        }
    }
}

/// Waits until a stream takes more. Asked for with data in hand only: what is reserved without, others of the connection
/// cannot have.
pub fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<usize, h2::Error>> {
    stream.reserve_capacity(1);
    loop {
        match stream.capacity() {
            0 => match ready!(stream.poll_capacity(cx)) {
                Some(room) => room?,
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            },
            room => return Poll::Ready(Ok(room)),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::{Request, Response, header::HeaderValue};
    use tokio::io::duplex;

    use super::*;

    /// What a client reads of an answer of `declared` bytes, of which a server sends five, and resets the stream for `reason`
    /// while the request's body is still on its way.
    async fn read(declared: u64, reason: Reason) -> Vec<Result<usize, Reason>> {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.expect("HTTP/2");
            while let Some(request) = connection.accept().await {
                let (_request, mut respond) = request.expect("a request");
                let mut head = Response::new(());
                head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
                let mut stream = respond.send_response(head, false).expect("a head");
                stream.send_data(Bytes::from_static(b"12345"), declared == 5).expect("data");
                stream.reserve_capacity(1);
                // Until what was sent has gone out.
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    stream.send_reset(reason);
                });
            }
        });
        let (mut sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
        tokio::spawn(connection);
        let (response, _body) = sender
            .send_request(Request::post("http://web/").body(()).expect("a request"), false)
            .expect("sent");
        let (head, stream) = response.await.expect("a head").into_parts();
        let mut body = Received::after(&head.headers, stream).expect("a body");
        let mut frames = Vec::new();
        // Not before the reset has come, too.
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            let ended = frame.is_err();
            frames.push(
                frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|error| error.reset()),
            );
            if ended {
                break;
            }
        }
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_whole_stays_so_when_its_server_needs_no_more_of_the_request() {
        assert_eq!(read(5, Reason::NO_ERROR).await, [Ok(5)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_cut_is_never_whole() {
        for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
            let told = if reason == Reason::NO_ERROR { Reason::INTERNAL_ERROR } else { reason };
            assert_eq!(read(6, reason).await, [Ok(5), Err(told)], "{reason}");
        }
    }
}
