//! What HTTP/2's frames cost their reader, besides their bytes.
//!
//! A connection's turn ends after so many bytes (`turn.rs`). But fifteen of them are SETTINGS that change every stream, and one
//! of a head is a whole field: a turn of nothing else would last a hundred times as long as another. So they count for more
//! (CVE-2019-9515 and its kin).

/// Types of frames (RFC 9113 section 6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// The flag of SETTINGS that acknowledges ours.
const ACK: u8 = 1;

/// The client's connection preface (section 3.4).
const PREFACE: usize = 24;
/// A frame's head: the length of its payload, its type, its flags, its stream (section 4.1).
const HEAD: usize = 9;

/// What a frame counts besides that may touch every stream.
const EVERY_STREAM: usize = 4096;
/// How often a byte counts that is part of a head (section 4.3): compressed, one may stand for a field of any length.
const FIELD: usize = 8;

/// Where the bytes that come on a connection are: within which frame.
#[derive(Debug)]
pub struct Frames {
    /// How many bytes come before the next frame's head…
    left: usize,
    /// …and how often each of them counts.
    times: usize,
    /// So much of the next frame's head has come.
    head: [u8; HEAD],
    begun: usize,
}

impl Frames {
    /// What a client sends.
    pub const fn of_client() -> Self {
        Self { left: PREFACE, ..Self::of_server() }
    }

    /// What a server sends.
    pub const fn of_server() -> Self {
        Self { left: 0, times: 1, head: [0; HEAD], begun: 0 }
    }

    /// What the next bytes count.
    pub fn weigh(&mut self, mut bytes: &[u8]) -> usize {
        let mut weight = 0;
        loop {
            let payload = self.left.min(bytes.len());
            weight += payload * self.times;
            self.left -= payload;
            bytes = &bytes[payload..];
            let head = bytes.len().min(HEAD - self.begun);
            self.head[self.begun..][..head].copy_from_slice(&bytes[..head]);
            weight += head;
            self.begun += head;
            bytes = &bytes[head..];
            if self.begun < HEAD {
                return weight;
            }
            weight += self.enter();
        }
    }

    /// A frame begins; what it counts besides its bytes.
    fn enter(&mut self) -> usize {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.begun = 0;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.times = if matches!(kind, HEADERS | CONTINUATION) { FIELD } else { 1 };
        let touches_all = kind == GOAWAY || (kind == SETTINGS && flags & ACK == 0);
        if touches_all { EVERY_STREAM } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("a short one").to_be_bytes();
        [&length[1..], &[kind, flags], &[0; 4], &vec![0xff; payload]].concat()
    }

    #[track_caller]
    fn check(mut frames: Frames, sent: &[u8], expected: usize) {
        for at_once in [1, 2, 9, 10, 1000, 100_000] {
            let weight: usize = sent.chunks(at_once).map(|bytes| frames.weigh(bytes)).sum();
            assert_eq!(weight, expected, "{at_once} at once");
            frames = Frames { left: 0, ..frames };
        }
    }

    #[test]
    fn data_count_as_many_as_they_are() {
        let sent = [frame(DATA, 0, 16_384), frame(DATA, 1, 0), frame(3, 0, 4)].concat();
        check(Frames::of_server(), &sent, sent.len());
    }

    #[test]
    fn a_frame_that_touches_every_stream_counts_more_however_it_is_cut() {
        let sent = [frame(SETTINGS, 0, 6), frame(SETTINGS, ACK, 0), frame(GOAWAY, 0, 8), frame(DATA, 0, 5)];
        let sent = sent.concat();
        check(Frames::of_server(), &sent, sent.len() + 2 * EVERY_STREAM);
    }

    #[test]
    fn a_byte_of_a_head_counts_more() {
        let sent = [frame(HEADERS, 0, 100), frame(CONTINUATION, 4, 50)].concat();
        check(Frames::of_server(), &sent, 2 * HEAD + 150 * FIELD);
    }

    #[test]
    fn a_clients_frames_come_after_its_preface() {
        let sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0)].concat();
        assert_eq!(Frames::of_client().weigh(&sent), sent.len() + EVERY_STREAM);
    }
}
