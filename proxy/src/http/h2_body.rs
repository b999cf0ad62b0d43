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

use super::{Error, form};
use crate::body::Body;

/// A head, decoded, at most: as over HTTP/1.
pub const HEAD_MAX: u32 = 64 * 1024;
/// What one stream may have buffered towards a slow reader.
pub const SEND_BUFFER: usize = 64 * 1024;
/// So many streams that were given up, or answered before their request had ended, are remembered for a second: what is still
/// on its way to them is no fault of the other side.
pub const GIVEN_UP_MAX: usize = 4096;
/// How many streams the other side may break, in a connection's life: h2 keeps each until it has told it so, which a hostile
/// reader can put off for ever.
pub const BROKEN_MAX: usize = 4096;

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
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).map_err(Error::from).transpose())
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
    ByReader(#[from] h2::Error),
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
        let stopped = match self.advance(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(stopped)) => stopped,
            Poll::Pending => {
                // Nothing else tells that nobody reads any more while the body has nothing to say.
                let reset = ready!(self.stream.poll_reset(cx));
                Stopped::ByReader(reset.map_or_else(|error| error, h2::Error::from))
            }
        };
        self.reset(stopped.reset_code());
        Poll::Ready(Err(stopped))
    }

    /// Gives the rest up.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if let Some((data, last)) = self.waiting.take() {
                if self.begun && !data.is_empty() && poll_room(&mut self.stream, cx)?.is_pending() {
                    self.waiting = Some((data, last));
                    return Poll::Pending;
                }
                self.begun = true;
                self.stream.send_data(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(frame) => frame.map_err(Stopped::Broke)?,
                None => return Poll::Ready(Ok(self.stream.send_data(Bytes::new(), true)?)),
            };
            match frame.into_data() {
                Ok(data) => self.waiting = Some((data, self.body.is_end_stream())),
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        form::for_stream(&mut trailers);
                        return Poll::Ready(Ok(self.stream.send_trailers(trailers)?));
                    }
                }
            }
        }
    }
}

impl Stopped {
    fn reset_code(&self) -> Reason {
        match self {
            Self::ByReader(_) => Reason::INTERNAL_ERROR,
            Self::Broke(error) => error.reset_code(),
        }
    }
}

/// Waits until a stream takes more: it then takes as much as one is ready to hold. Asked for with data in hand only, because
/// others of the connection cannot have what is reserved; a byte stands for all.
pub fn poll_room(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(room) => drop(room?),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use hyper::{Request, Response, header::HeaderValue};
    use tokio::{io::duplex, time::sleep};

    use super::*;

    /// What a client reads of an answer of five bytes that says this length of itself, and ends with them or not, before its
    /// server resets the stream while the request's body is still on its way.
    async fn read(declared: Option<u64>, whole: bool, reason: Reason) -> Vec<Result<usize, Reason>> {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.expect("HTTP/2");
            while let Some(request) = connection.accept().await {
                let (_request, mut respond) = request.expect("a request");
                let mut head = Response::new(());
                if let Some(declared) = declared {
                    head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(declared));
                }
                let mut stream = respond.send_response(head, false).expect("a head");
                stream.send_data(Bytes::from_static(b"12345"), whole).expect("data");
                tokio::spawn(async move {
                    // Not before what was sent has gone out.
                    sleep(Duration::from_millis(20)).await;
                    stream.send_reset(reason);
                });
            }
        });
        let (mut sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::post("http://web/").body(()).expect("a request");
        let (response, _body) = sender.send_request(request, false).expect("sent");
        let (head, stream) = response.await.expect("a head").into_parts();
        let mut body = Received::after(&head.headers, stream).expect("a body");
        // Not before the reset has come, too.
        sleep(Duration::from_millis(60)).await;
        let mut frames = Vec::new();
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            let size = frame.map(|frame| frame.data_ref().map_or(0, Bytes::len));
            frames.push(size.map_err(|error| error.reset_code()));
            if frames.last().is_some_and(Result::is_err) {
                break;
            }
        }
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_whole_stays_so_when_its_server_needs_no_more_of_the_request() {
        for declared in [None, Some(5)] {
            assert_eq!(read(declared, true, Reason::NO_ERROR).await, [Ok(5)], "{declared:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_cut_is_never_whole_whatever_its_length() {
        for declared in [None, Some(5), Some(6)] {
            for (reason, told) in [
                (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
                (Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR),
                (Reason::CANCEL, Reason::CANCEL),
            ] {
                assert_eq!(read(declared, false, reason).await, [Ok(5), Err(told)], "{declared:?} {reason}");
            }
        }
    }
}
