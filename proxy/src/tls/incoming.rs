//! What was read and not handed on yet.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::Error;
use tokio::io::{AsyncRead, ReadBuf};

use super::records::{self, HEAD, PLAIN_MAX, SEALED_MORE};
use crate::net::spare::{self, Buffer};

const _: () = assert!(spare::SIZE == 2 * (PLAIN_MAX + SEALED_MORE), "whole records are read");

/// Bytes from the peer: first those that are opened, then those that are still sealed.
#[derive(Default)]
pub struct Incoming {
    bytes: Buffer,
    plain: Range<usize>,
    sealed: Range<usize>,
}

impl Incoming {
    /// What came with the end of a handshake.
    pub fn new(sealed: &[u8]) -> Self {
        Self { bytes: Buffer::holding(sealed), plain: 0..0, sealed: 0..sealed.len() }
    }

    /// The data that can be handed on.
    pub fn plain(&self) -> &[u8] {
        self.bytes.get(self.plain.clone()).unwrap_or_default()
    }

    /// So many of them have been handed on.
    pub fn consume(&mut self, count: usize) {
        self.plain.start = self.plain.end.min(self.plain.start + count);
        if self.plain.is_empty() && self.sealed.is_empty() {
            self.clear();
        }
    }

    /// The next record, if it is whole. Its data are to be told with [`Incoming::opened`].
    pub fn record(&mut self) -> Result<Option<&mut [u8]>, Error> {
        let sealed = self.bytes.get_mut(self.sealed.clone()).unwrap_or_default();
        let Some(length) = records::length(sealed)? else { return Ok(None) };
        let Some(record) = sealed.get_mut(..length) else { return Ok(None) };
        let begins = self.sealed.start;
        self.sealed.start += length;
        self.plain = begins + HEAD..begins + HEAD;
        Ok(Some(record))
    }

    /// The last record has been opened, to so many bytes of data.
    pub fn opened(&mut self, data: usize) {
        self.plain.end = self.plain.start + data;
        self.consume(0);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads more, and says how much; there must be nothing to hand on.
    pub fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Self { mut bytes, sealed, .. } = std::mem::take(self);
        let part = sealed.len();
        if bytes.is_lent() {
            bytes.copy_within(sealed, 0);
        } else {
            let mut room = Buffer::lend();
            room[..part].copy_from_slice(&bytes[sealed]);
            bytes = room;
        }
        let mut buf = ReadBuf::new(&mut bytes[part..]);
        let polled = Pin::new(io).poll_read(cx, &mut buf);
        let read = buf.filled().len();
        let filled = part + read;
        if polled.is_pending() || filled == 0 {
            bytes.keep(0..filled);
        }
        *self = Self { bytes, plain: 0..0, sealed: 0..filled };
        polled.map_ok(|()| read)
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.bytes.held()
    }
}
