//! A buffer that the connections of a thread read into, one after another.
//!
//! What a read brings is nearly always handed on in the same turn, and then the buffer goes back: an idle connection holds none.
//! Who still has something may keep that alone, in memory of its own size.

use std::{
    cell::Cell,
    fmt,
    ops::{Deref, DerefMut, Range},
};

/// How much is read at once, at most: two full TLS records as they are sealed (RFC 8446 section 5.2), which is what a relay
/// takes at once, so that it leaves nothing behind.
pub const SIZE: usize = 2 * (16 * 1024 + 22);

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Memory to read into, or what was kept of it.
#[derive(Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// The thread's, or a new one while another connection has it. Its bytes are anything.
    pub fn lend() -> Self {
        let mut bytes = SPARE.take();
        bytes.resize(SIZE, 0);
        Self(bytes)
    }

    /// Memory for these bytes alone.
    pub fn holding(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Whether it is the thread's (or as large).
    pub fn is_lent(&self) -> bool {
        self.0.len() == SIZE
    }

    /// Gives the thread's back, and keeps these bytes alone. They are the first then.
    pub fn keep(&mut self, bytes: Range<usize>) {
        *self = Self::holding(&self[bytes]);
    }

    /// How much memory it holds.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.0.capacity()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_lent() {
            // At the thread's end there is nobody who could use it.
            let _ = SPARE.try_with(|spare| spare.set(std::mem::take(&mut self.0)));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// What was read is for nobody's log.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffer").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_when_it_is_kept_alone_and_at_its_end() {
        let mut buffer = Buffer::lend();
        buffer[7..12].copy_from_slice(b"hello");
        buffer.keep(7..12);
        assert_eq!((&*buffer, buffer.held()), (&b"hello"[..], 5));
        let mut again = Buffer::lend();
        // A new one would be empty.
        assert_eq!(again[7..12], *b"hello");
        again[7..12].copy_from_slice(b"again");
        drop(again);
        drop(buffer);
        assert_eq!(Buffer::lend()[7..12], *b"again");
    }

    #[test]
    fn two_at_once_are_two_and_one_of_them_is_lent_again() {
        let (mut one, mut other) = (Buffer::lend(), Buffer::lend());
        one[0] = 1;
        other[0] = 2;
        assert_eq!((one[0], other[0]), (1, 2));
        drop(one);
        drop(other);
        assert_eq!(Buffer::lend()[0], 2);
    }
}
