//! The body of every request and response that passes: a stream from the other side, or our own few words.
//!
//! A response's body holds what must last until the very end of the body, not only its head: the exchange with the
//! endpoint (connection, stream, load) and the request's account (room, duration). Both follow what passes.

mod replay;
mod source;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use hyper::{
    HeaderMap, StatusCode,
    body::{Body as HttpBody, Bytes, Frame, SizeHint},
};

pub use replay::Remembered;
use replay::Replay;
pub use source::Source;

use crate::http::{Error, mesh_headers, requests::Running};

/// A body on its way through the proxy.
#[derive(Default)]
pub struct Body {
    from: From,
    exchange: Option<Box<dyn Follower>>,
    account: Option<Box<dyn Follower>>,
    running: Option<Running>,
    count: Option<Arc<AtomicU64>>,
}

/// What follows a body: it is told what passes, and lasts as long as the body does.
pub trait Follower: Send {
    /// Something of the body has passed.
    fn passed(&mut self, passed: &Passed<'_>);
}

/// What of a response's body has passed.
pub enum Passed<'a> {
    /// So many bytes.
    Data(u64),
    /// Its trailers.
    Trailers(&'a HeaderMap),
    /// All of it.
    End,
    /// No more: it broke off.
    Break,
}

#[derive(Default)]
enum From {
    #[default]
    Nothing,
    Ourselves(Bytes),
    Other(Source),
    Again(Replay),
}

impl std::convert::From<Source> for From {
    fn from(source: Source) -> Self {
        if matches!(source, Source::Nothing) { Self::Nothing } else { Self::Other(source) }
    }
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Words of our own.
    pub fn words(words: impl Into<Bytes>) -> Self {
        Self { from: From::Ourselves(words.into()), ..Self::default() }
    }

    /// What the client sends.
    pub fn passing(source: Source) -> Self {
        Self { from: source.into(), ..Self::default() }
    }

    /// The same body, which remembers how it began if there is anything to remember.
    pub fn remember(self) -> (Self, Option<Remembered>) {
        let replay = match self.from {
            From::Other(source) if !source.is_end_stream() => Replay::new(source),
            From::Again(replay) => replay,
            from @ (From::Nothing | From::Ourselves(_) | From::Other(_)) => {
                return (Self { from, ..self }, None);
            }
        };
        let remembered = replay.remembered();
        (Self { from: From::Again(replay), ..self }, Some(remembered))
    }

    /// A remembered body, from its beginning.
    pub fn repeated(replay: Replay) -> Self {
        Self { from: From::Again(replay), ..Self::default() }
    }

    /// What an endpoint answers, with this status. The exchange ends with the body.
    pub fn carried(status: StatusCode, source: Source, mut exchange: Box<dyn Follower>) -> Self {
        let body = Self::passing(source);
        if body.has_ended() || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
            // Nobody asks such a body for its end.
            exchange.passed(&Passed::End);
        }
        Self { exchange: Some(exchange), ..body }
    }

    /// The (empty) body of an answer that switches protocols: the exchange lasts as long as the body is kept.
    pub fn switched(source: Source, exchange: Box<dyn Follower>) -> Self {
        Self { from: source.into(), exchange: Some(exchange), ..Self::default() }
    }

    /// No body in the place of this one, for an answer that has none by its kind.
    pub fn withheld(mut self) -> Self {
        self.from = From::Nothing;
        self.note(None);
        self
    }

    /// Keeps its request counted as running until the body ends.
    pub fn of_running(mut self, running: Running) -> Self {
        self.running = Some(running);
        self
    }

    /// How long it is, if it is words of our own; what passes says so by its head.
    pub fn own_length(&self) -> Option<usize> {
        match &self.from {
            From::Ourselves(bytes) => Some(bytes.len()),
            From::Nothing | From::Other(_) | From::Again(_) => None,
        }
    }

    /// Closes the request's account when the body ends.
    pub fn accounted(mut self, mut account: Box<dyn Follower>) -> Self {
        if self.has_ended() {
            account.passed(&Passed::End);
        }
        self.account = Some(account);
        self
    }

    /// Counts the bytes that pass.
    pub fn count_in(&mut self, count: Arc<AtomicU64>) {
        self.count = Some(count);
    }

    /// Whether nothing is to come any more: a body of a known length is not asked for its end.
    fn has_ended(&self) -> bool {
        self.is_end_stream() || self.size_hint().exact() == Some(0)
    }

    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, Error>>) {
        if self.exchange.is_none() && self.account.is_none() && self.count.is_none() {
            return;
        }
        let ended = self.has_ended();
        let passed = match frame {
            None => Passed::End,
            Some(Err(_)) => Passed::Break,
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Passed::Data(data.len() as u64),
                (None, Some(trailers)) => Passed::Trailers(trailers),
                (None, None) => return,
            },
        };
        if let (Some(count), Passed::Data(bytes)) = (&self.count, &passed) {
            count.fetch_add(*bytes, Relaxed);
        }
        let last = ended || matches!(passed, Passed::Trailers(_));
        for follower in [&mut self.exchange, &mut self.account].into_iter().flatten() {
            follower.passed(&passed);
            if last {
                follower.passed(&Passed::End);
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut frame = match &mut self.from {
            From::Nothing => None,
            From::Ourselves(bytes) => {
                let bytes = std::mem::take(bytes);
                self.from = From::Nothing;
                Some(Ok(Frame::data(bytes)))
            }
            From::Other(source) => ready!(source.poll_frame(cx)),
            From::Again(replay) => ready!(replay.poll_frame(cx)),
        };
        match &mut frame {
            None => self.from = From::Nothing,
            // What may not come in a header may not come behind the body either.
            Some(Ok(frame)) => frame.trailers_mut().into_iter().for_each(mesh_headers::strip),
            Some(Err(_)) => (),
        }
        self.note(frame.as_ref());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Nothing => true,
            From::Ourselves(bytes) => bytes.is_empty(),
            From::Other(source) => source.is_end_stream(),
            From::Again(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Nothing => SizeHint::with_exact(0),
            From::Ourselves(bytes) => SizeHint::with_exact(bytes.len() as u64),
            From::Other(source) => source.size_hint(),
            From::Again(replay) => replay.size_hint(),
        }
    }
}
