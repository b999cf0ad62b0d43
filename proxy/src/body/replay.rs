//! A body that can be sent again, because its endpoint says that it did not process the request.
//!
//! By then the body has begun, so its first frames are remembered until the response begins: as the shared bytes that
//! they are, without a copy. A body that grows past the bound is let go of, and can no longer be sent again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper::{
    HeaderMap,
    body::{Bytes, Frame, SizeHint},
};

use super::Source;
use crate::http::Error;

/// How much of one body is remembered: what one stream may have on its way before its endpoint reads any of it.
const REMEMBERED_MAX: usize = 64 * 1024;

/// What remembering one frame costs besides its bytes.
const FRAME: usize = 64;

/// A body that remembers how it began. Of several readers only the latest reads.
pub struct Replay {
    shared: Arc<Mutex<State>>,
    reader: usize,
    /// How many of the remembered frames this reader has given out.
    given: usize,
}

/// The beginning of a body; while it is held, the body remembers.
pub struct Remembered(Arc<Mutex<State>>);

struct State {
    source: Source,
    reader: usize,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    whole: bool,
}

impl Remembered {
    /// The body once more from its beginning, if all that has been read of it is still known.
    pub fn again(self) -> Option<Replay> {
        let reader = {
            let mut state = lock(&self.0);
            if !state.whole {
                // Whoever reads goes on: its stream may still run.
                return None;
            }
            state.reader += 1;
            state.reader
        };
        Some(Replay { shared: self.0, reader, given: 0 })
    }
}

impl Replay {
    /// A body of which nothing has been read.
    pub fn new(source: Source) -> Self {
        let state = State { source, reader: 0, frames: Vec::new(), trailers: None, bytes: 0, whole: true };
        Self { shared: Arc::new(Mutex::new(state)), reader: 0, given: 0 }
    }

    /// What makes it come again.
    pub fn remembered(&self) -> Remembered {
        Remembered(Arc::clone(&self.shared))
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // Nobody asks for the body again once the response has begun.
        let forget = Arc::strong_count(&self.shared) == 1;
        let mut state = lock(&self.shared);
        if state.reader != self.reader {
            // The stream that reads here has been refused; its body goes another way.
            return Poll::Pending;
        }
        if let Some(frame) = state.remembered(self.given) {
            self.given += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = ready!(state.source.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            state.remember(frame, forget);
            self.given = state.len();
        }
        Poll::Ready(frame)
    }

    /// Whether the last frame has been given out.
    pub fn is_end_stream(&self) -> bool {
        let state = lock(&self.shared);
        self.given >= state.len() && state.source.is_end_stream()
    }

    /// How much is still to come.
    pub fn size_hint(&self) -> SizeHint {
        let state = lock(&self.shared);
        let ahead: u64 = state.frames.iter().skip(self.given).map(|frame| frame.len() as u64).sum();
        let rest = state.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}

impl State {
    fn len(&self) -> usize {
        self.frames.len() + usize::from(self.trailers.is_some())
    }

    fn remembered(&self, index: usize) -> Option<Frame<Bytes>> {
        match self.frames.get(index) {
            Some(data) => Some(Frame::data(data.clone())),
            None if index < self.len() => self.trailers.clone().map(Frame::trailers),
            None => None,
        }
    }

    fn remember(&mut self, frame: &Frame<Bytes>, forget: bool) {
        self.bytes += FRAME + frame.data_ref().map_or(0, Bytes::len);
        if forget || self.bytes > REMEMBERED_MAX {
            self.whole = false;
            self.frames = Vec::new();
        }
        if !self.whole {
            return;
        }
        match frame.data_ref() {
            Some(data) => self.frames.push(data.clone()),
            None => self.trailers = frame.trailers_ref().cloned(),
        }
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
