//! HTTP/1.1 answers, as far as the bench's servers write them: a head, and a body whose length the head says.
//!
//! No socket is in here: the asynchronous and the blocking connection read into the same [`Reader`]. Bodies are
//! counted and forgotten.

use anyhow::{Context, Result, bail, ensure};

/// Room for a head, and for what is read of a body at a time, bytes. Larger than an answer of the bench: a read that
/// does not fill it tells the runtime that there is no more, which saves a second one.
const ROOM: usize = 16 << 10;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Whether the server closes the connection now.
    pub last: bool,
}

/// Reads one answer after the other. What was read goes into [`space`](Self::space), its length to
/// [`took`](Self::took).
pub struct Reader {
    buffer: Vec<u8>,
    state: State,
}

enum State {
    /// So many bytes of the head are in the buffer.
    Head(usize),
    /// So many bytes of the answer's body are still to come.
    Body(Answer, usize),
}

impl Reader {
    /// Before the first answer.
    pub fn new() -> Self {
        Self { buffer: vec![0; ROOM], state: State::Head(0) }
    }

    /// Where the next bytes belong; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        match self.state {
            State::Head(filled) => &mut self.buffer[filled..],
            State::Body(..) => &mut self.buffer,
        }
    }

    /// Takes the `count` bytes that were read into the space; the answer, if that was its end.
    ///
    /// # Errors
    /// When the server closed, or wrote anything but one answer whose length it says.
    pub fn took(&mut self, count: usize) -> Result<Option<Answer>> {
        ensure!(count > 0, "the server closed the connection");
        let (answer, missing) = match self.state {
            State::Body(answer, left) => (answer, left.checked_sub(count)),
            State::Head(before) => {
                let filled = before + count;
                let Some(head) = head_length(&self.buffer[..filled], before) else {
                    ensure!(filled < ROOM, "the answer's head is longer than {ROOM} bytes");
                    self.state = State::Head(filled);
                    return Ok(None);
                };
                let (answer, length) = parse(&self.buffer[..head])?;
                (answer, (head + length).checked_sub(filled))
            }
        };
        let missing = missing.context("the server wrote more than its answer")?;
        self.state = if missing == 0 { State::Head(0) } else { State::Body(answer, missing) };
        Ok((missing == 0).then_some(answer))
    }
}

/// Where the head ends; the first `known` bytes hold no end.
fn head_length(read: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(END_OF_HEAD.len() - 1);
    let found = read[from..].windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD)?;
    Some(from + found + END_OF_HEAD.len())
}

/// What a head says of its answer and of the length of the body.
fn parse(head: &[u8]) -> Result<(Answer, usize)> {
    let head = std::str::from_utf8(head).context("the answer's head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.context("the answer is not HTTP/1.1")?;
    let (mut length, mut last) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse()?);
        } else if name.eq_ignore_ascii_case("connection") {
            last = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let Some(length) = length else {
        bail!("the answer, of status {status}, does not say its length");
    };
    Ok((Answer { status, last }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Answer = Answer { status: 200, last: false };

    fn feed(reader: &mut Reader, bytes: &[u8]) -> Result<Option<Answer>> {
        reader.space()[..bytes.len()].copy_from_slice(bytes);
        reader.took(bytes.len())
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], reason: &str) {
        let error = feed(&mut Reader::new(), bytes).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test]
    fn an_answer_is_whole_however_it_is_cut() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ndate: now\r\n\r\nhello";
        let mut reader = Reader::new();
        for size in 1..=text.len() {
            let told: Vec<_> = text.chunks(size).map(|part| feed(&mut reader, part).unwrap()).collect();
            let (last, before) = told.split_last().unwrap();
            assert!(before.iter().all(Option::is_none), "in parts of {size}");
            assert_eq!(*last, Some(OK), "in parts of {size}");
        }
    }

    #[test]
    fn a_body_may_be_longer_than_the_buffer() {
        let mut reader = Reader::new();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * ROOM);
        assert_eq!(feed(&mut reader, head.as_bytes()).unwrap(), None);
        assert_eq!(feed(&mut reader, &vec![0; ROOM]).unwrap(), None);
        assert_eq!(feed(&mut reader, &vec![0; ROOM]).unwrap(), Some(OK));
    }

    #[test]
    fn an_answer_may_have_no_body_and_be_the_last() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = feed(&mut Reader::new(), text).unwrap();
        assert_eq!(answer, Some(Answer { status: 503, last: true }));
    }

    #[test]
    fn what_is_no_such_answer_is_refused() {
        check_refused(b"", "closed");
        check_refused(b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1");
        check_refused(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "its length");
        check_refused(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", "more than its answer");
        check_refused(&[b'a'; ROOM], "longer than");
    }

    #[test]
    fn more_than_a_body_is_refused_in_its_later_parts_too() {
        let mut reader = Reader::new();
        feed(&mut reader, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").unwrap();
        assert!(feed(&mut reader, b"cde").is_err());
    }
}
