//! The heads of frames.

/// The most bytes of one frame: with its head it fills two TLS records.
pub(super) const BYTES_MAX: u16 = 2 * 16_384 - 2;

const END: u16 = 0;
const LAST: u16 = 0xFFFE;
const OPEN: u16 = 0xFFFF;

/// What a frame's first two bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// A tunnel begins.
    Open,
    /// So many bytes follow.
    Bytes(u16),
    /// This direction has ended.
    End,
    /// No tunnel is taken after the one that has begun.
    Last,
}

impl Code {
    /// What is none of these is no frame.
    pub(super) fn read(bytes: [u8; 2]) -> Option<Self> {
        match u16::from_be_bytes(bytes) {
            END => Some(Self::End),
            LAST => Some(Self::Last),
            OPEN => Some(Self::Open),
            count => (count <= BYTES_MAX).then_some(Self::Bytes(count)),
        }
    }

    fn bytes(self) -> [u8; 2] {
        match self {
            Self::Open => OPEN,
            Self::Bytes(count) => count,
            Self::End => END,
            Self::Last => LAST,
        }
        .to_be_bytes()
    }
}

/// Heads that are still to be written: an OPEN, a first frame's and an END at most, or a LAST.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: [u8; 6],
    from: u8,
    to: u8,
}

impl Head {
    /// Adds one. There is room: a head is only pushed when the one before the last has been written.
    pub(super) fn push(&mut self, code: Code) {
        let to = usize::from(self.to);
        if let Some(room) = self.bytes.get_mut(to..to + 2) {
            room.copy_from_slice(&code.bytes());
            self.to += 2;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from == self.to
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from.into()..self.to.into()).unwrap_or_default()
    }

    /// So many bytes were written, heads first; says how many were not of heads.
    pub(super) fn written(&mut self, bytes: usize) -> usize {
        let of_heads = bytes.min(self.bytes().len());
        self.from += u8::try_from(of_heads).unwrap_or(u8::MAX);
        if self.is_empty() {
            (self.from, self.to) = (0, 0);
        }
        bytes - of_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_is_read_as_it_was_written_and_nothing_else_is_one() {
        for code in [Code::Open, Code::Last, Code::End, Code::Bytes(1), Code::Bytes(BYTES_MAX)] {
            assert_eq!(Code::read(code.bytes()), Some(code));
        }
        assert_eq!(Code::read((BYTES_MAX + 1).to_be_bytes()), None);
        assert_eq!(Code::read([0xFF, 0xFD]), None);
    }

    #[test]
    fn heads_are_written_before_what_follows_them() {
        let mut head = Head::default();
        head.push(Code::Open);
        head.push(Code::Bytes(5));
        assert_eq!(head.bytes(), [0xFF, 0xFF, 0, 5]);
        assert_eq!(head.written(3), 0);
        assert_eq!(head.bytes(), [5]);
        assert_eq!(head.written(4), 3);
        assert!(head.is_empty());
    }
}
