//! Whether bytes that are not routed as HTTP might still be read as HTTP by a lenient server.
//!
//! Detection says HTTP only where it is certain, because a wrong HTTP answer breaks a connection. The side that
//! vouches for identities needs the opposite certainty: that no server behind it takes opaque bytes for a request, with
//! headers that nobody has looked at. Servers read `GET  /a HTTP/1.1` with two spaces, tabs between the words,
//! any scheme, and any number of empty lines in front; what they all need is a method, white space after it, and a
//! line that ends in the version.

/// Longer first lines are HTTP's if a method begins them and white space follows it; no other protocol's do.
const LINE_ENOUGH: usize = 8192;
/// No server takes so much before a method has ended: those that take most, Go's, give up after a mebibyte.
const WORD_ENOUGH: usize = 2 << 20;
/// What begins the last word of a request's first line.
const VERSION: &[u8; 5] = b"HTTP/";

/// What the first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resemblance {
    /// No server of HTTP takes it for a request.
    None,
    /// More bytes must tell.
    NeedMore,
    /// Some server may.
    Http,
}

/// Whether a lenient server may take what begins with `bytes` for a request of HTTP/1.
pub fn resembles_http(bytes: &[u8]) -> Resemblance {
    FirstLine::default().read(bytes)
}

/// The first line of a connection as its bytes pass, none of which is kept.
#[derive(Clone, Debug, Default)]
pub struct FirstLine {
    /// How many bytes have passed.
    read: usize,
    at: At,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// White space in front, which servers skip.
    #[default]
    Blank,
    /// The method.
    Method,
    /// What follows it.
    Line(Word),
    /// What was found.
    End(Resemblance),
}

/// The last word of a line so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It has ended, and began with [`VERSION`] or not.
    Ended { version: bool },
    /// It begins with so many bytes of it.
    Matches(usize),
    /// It begins otherwise.
    Other,
}

impl FirstLine {
    /// What is known when these bytes have passed, too.
    pub fn read(&mut self, bytes: &[u8]) -> Resemblance {
        for byte in bytes {
            if let At::End(found) = self.at {
                return found;
            }
            self.read += 1;
            self.at = self.at.next(*byte, self.read);
        }
        match self.at {
            At::End(found) => found,
            At::Blank | At::Method | At::Line(_) => Resemblance::NeedMore,
        }
    }
}

impl At {
    /// `read` is how many bytes there are with this one.
    fn next(self, byte: u8, read: usize) -> Self {
        match self {
            Self::Blank | Self::Method if read >= WORD_ENOUGH => Self::End(Resemblance::None),
            Self::Blank if byte.is_ascii_whitespace() => Self::Blank,
            Self::Blank | Self::Method if super::is_token(byte) => Self::Method,
            Self::Method if matches!(byte, b' ' | b'\t') => Self::line(Word::Ended { version: false }, read),
            Self::Blank | Self::Method => Self::End(Resemblance::None),
            Self::Line(word) => match byte {
                b'\r' | b'\n' if word.is_version() => Self::End(Resemblance::Http),
                b' ' | b'\t' => Self::line(Word::Ended { version: word.is_version() }, read),
                _ if byte.is_ascii_control() => Self::End(Resemblance::None),
                _ => Self::line(word.next(byte), read),
            },
            Self::End(_) => self,
        }
    }

    fn line(word: Word, read: usize) -> Self {
        if read >= LINE_ENOUGH { Self::End(Resemblance::Http) } else { Self::Line(word) }
    }
}

impl Word {
    fn is_version(self) -> bool {
        matches!(self, Self::Ended { version: true }) || self == Self::Matches(VERSION.len())
    }

    fn next(self, byte: u8) -> Self {
        let matched = match self {
            Self::Ended { .. } => 0,
            Self::Matches(matched) => matched,
            Self::Other => return Self::Other,
        };
        match VERSION.get(matched) {
            None => self,
            Some(expected) if expected.eq_ignore_ascii_case(&byte) => Self::Matches(matched + 1),
            Some(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Resemblance) {
        assert_eq!(resembles_http(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn what_some_server_takes_for_a_request_resembles_one() {
        for line in [
            "GET  /a HTTP/1.1\r\n",
            "GET ftp://x/a HTTP/1.1\r\n",
            "FOO /a  HTTP/1.1\n",
            "GET\t/a HTTP/1.1\r\n",
            " GET /a HTTP/1.1\r\n",
            "GET a HTTP/1.1 \r\n",
            "GET /\u{e9} http/1.0\r",
        ] {
            check(line.as_bytes(), Resemblance::Http);
        }
        check(&[&b"\r\n".repeat(4096)[..], b"GET /a HTTP/1.1\r\n"].concat(), Resemblance::Http);
        check(&[b"GET ", &[b'a'; 9000][..]].concat(), Resemblance::Http);
    }

    #[test]
    fn other_protocols_do_not() {
        let redis: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let words: [&[u8]; 8] = [
            redis,
            b"SET key value\r\n",
            b"EHLO shop.example\r\n",
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
            b"AMQP\0\0\x09\x01",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"{\"level\": \"GET / HTTP/1.1\"}\n",
            b"INFO GET / HTTP/1.1 200\n",
        ];
        words.into_iter().for_each(|bytes| check(bytes, Resemblance::None));
    }

    #[test]
    fn a_line_that_has_not_ended_may_become_anything() {
        for bytes in [&b""[..], b"\r\n\r\n", b"GE", b"GET ", b"GET  /a HTTP/1.1"] {
            check(bytes, Resemblance::NeedMore);
        }
    }

    #[test]
    fn one_long_word_is_none_when_no_server_would_wait_for_its_end() {
        let word = vec![b'x'; WORD_ENOUGH];
        check(&word[1..], Resemblance::NeedMore);
        check(&word, Resemblance::None);
        check(&[&word[..9000], b" / HTTP/1.1\r\n"].concat(), Resemblance::Http);
    }

    /// What the whole line says, read at once.
    fn at_once(line: &[u8]) -> Resemblance {
        let text = line.trim_ascii_start();
        let Some(end) = text.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') else {
            return Resemblance::NeedMore;
        };
        let (line, end) = (text.get(..end).unwrap_or_default(), text.get(end));
        let method = line.iter().take_while(|byte| super::super::is_token(**byte)).count();
        let spaced = matches!(line.get(method), Some(b' ' | b'\t'));
        let last = line.trim_ascii_end().rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
        let version = last.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"));
        let words = line.trim_ascii_end().len() > method;
        if method > 0 && spaced && words && version && matches!(end, Some(b'\r' | b'\n')) {
            Resemblance::Http
        } else {
            Resemblance::None
        }
    }

    proptest! {
        #[test]
        fn a_line_says_the_same_byte_by_byte(line in "[GET/htp HTTP1.\t]{0,24}[\r\n\x0c]") {
            let mut first = FirstLine::default();
            let found = line.bytes().map(|byte| first.read(&[byte])).last();
            prop_assert_eq!(found, Some(resembles_http(line.as_bytes())));
            if !line.trim_start().is_empty() {
                prop_assert_eq!(found, Some(at_once(line.as_bytes())), "{:?}", line);
            }
        }

        #[test]
        fn an_answer_is_final(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let early = resembles_http(bytes.get(..cut).unwrap_or(&bytes));
            prop_assert!(early == Resemblance::NeedMore || early == resembles_http(&bytes));
        }
    }
}
