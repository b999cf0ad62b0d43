//! Whether bytes that are not routed as HTTP might still be read as HTTP by a lenient server.
//!
//! Detection says HTTP only where it is certain, because a wrong HTTP answer breaks a connection. The side that
//! vouches for identities needs the opposite certainty: that no server behind it takes opaque bytes for a request, with
//! headers that nobody has looked at. Servers read `GET  /a HTTP/1.1` with two spaces, tabs or (Python's) other white space
//! between the words, any scheme, and any number of empty lines in front; some read headers after a line without a version
//! (Node.js, Python). What they all need is a method, white space after it, and then a line that ends in the version, or a
//! header's line with the name of one that matters.

/// Longer first lines are HTTP's if a method begins them and white space follows it, or nothing but white space is there;
/// no other protocol's do.
const LINE_ENOUGH: usize = 8192;
/// No server takes so much of a method, or of a head: those that take most, Go's, give up after a mebibyte.
const HEAD_ENOUGH: usize = 2 << 20;
/// What begins the last word of a request's first line.
const VERSION: &[u8; 5] = b"HTTP/";
/// The headers by which the mesh vouches for a caller…
const IDENTITY: &[u8] = b"x-forwarded-client-cert";
/// …and how all those begin that are the mesh's own.
const OWN: &[u8] = b"heddle-";

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
    FirstLines::default().read(bytes)
}

/// The first lines of a connection as its bytes pass, none of which is kept.
#[derive(Clone, Debug, Default)]
pub struct FirstLines {
    /// How many bytes have passed of the present part; of the head in all, once a method has begun.
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
    /// The beginning of a line after a first one without a version.
    LineBegins,
    /// A header's name: how much of [`IDENTITY`] and of [`OWN`] it is so far.
    Name { read: usize, identity: bool, own: bool },
    /// The rest of a header's line.
    Value,
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

impl FirstLines {
    /// What is known when these bytes have passed, too.
    pub fn read(&mut self, bytes: &[u8]) -> Resemblance {
        for byte in bytes {
            if let At::End(found) = self.at {
                return found;
            }
            self.read += 1;
            let next = self.at.next(*byte, self.read);
            if matches!((self.at, next), (At::Blank, At::Method)) {
                self.read = 1;
            }
            self.at = next;
        }
        if let At::End(found) = self.at { found } else { Resemblance::NeedMore }
    }
}

impl At {
    const NONE: Self = Self::End(Resemblance::None);
    const HTTP: Self = Self::End(Resemblance::Http);

    /// `read` is how many bytes there are with this one.
    fn next(self, byte: u8, read: usize) -> Self {
        match self {
            Self::End(_) => self,
            Self::Blank if is_space(byte) || is_end(byte) => {
                if read >= LINE_ENOUGH {
                    Self::HTTP
                } else {
                    self
                }
            }
            _ if read >= HEAD_ENOUGH => Self::NONE,
            Self::Blank | Self::Method if super::is_token(byte) => Self::Method,
            Self::Method if is_space(byte) => Self::line(Word::Ended { version: false }, read),
            Self::Blank | Self::Method => Self::NONE,
            Self::Line(word) if is_end(byte) => {
                if word.is_version() {
                    Self::HTTP
                } else {
                    Self::LineBegins
                }
            }
            Self::Line(word) if is_space(byte) => {
                Self::line(Word::Ended { version: word.is_version() }, read)
            }
            Self::Line(_) if byte.is_ascii_control() => Self::NONE,
            Self::Line(word) => Self::line(word.next(byte), read),
            Self::LineBegins => match byte {
                b'\r' | b'\n' => Self::LineBegins,
                b' ' | b'\t' => Self::Value,
                _ => Self::Name { read: 0, identity: true, own: true }.next(byte, read),
            },
            Self::Name { read: 0, .. } if !super::is_token(byte) => Self::NONE,
            Self::Name { identity: true, read, .. } if byte == b':' && read == IDENTITY.len() => Self::HTTP,
            Self::Name { own: true, read, .. } if byte == b':' && read >= OWN.len() => Self::HTTP,
            Self::Name { .. } if byte == b':' => Self::Value,
            // Servers take no name with anything else in it, nor a line without one.
            Self::Name { .. } if !super::is_token(byte) => Self::NONE,
            Self::Name { read, identity, own } => {
                let is =
                    |name: &[u8]| name.get(read).is_some_and(|expected| expected.eq_ignore_ascii_case(&byte));
                Self::Name {
                    read: read + 1,
                    identity: identity && is(IDENTITY),
                    own: own && (read >= OWN.len() || is(OWN)),
                }
            }
            Self::Value if is_end(byte) => Self::LineBegins,
            Self::Value => Self::Value,
        }
    }

    fn line(word: Word, read: usize) -> Self {
        if read >= LINE_ENOUGH { Self::HTTP } else { Self::Line(word) }
    }
}

/// What separates words, to some server (Python's `str.split` in ISO 8859-1).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0B | 0x0C | 0x1C..=0x1F | 0x85 | 0xA0)
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
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
        // Python's white space, and empty lines without end.
        for line in [
            &b"GET \x0b/admin HTTP/1.1\r\n"[..],
            b"GET\x0c/admin HTTP/1.1\r\n",
            b"GET\xa0/admin HTTP/1.1\r\n",
            b"\x0bGET /admin HTTP/1.1\r\n",
        ] {
            check(line, Resemblance::Http);
        }
        check(&b"\r\n".repeat(1 << 20), Resemblance::Http);
    }

    #[test]
    fn a_header_that_matters_is_found_after_a_line_without_a_version() {
        for head in [
            "GET admin\r\nx-forwarded-client-cert: me\r\n\r\n",
            "SUBSCRIBE /admin\r\nhost: a\r\n folded\r\nX-Forwarded-Client-Cert: me\r\n",
            "GET x://h/admin\nHeddle-Server-Http: 2\n",
        ] {
            check(head.as_bytes(), Resemblance::Http);
        }
        check(b"GET admin\r\nhost: a\r\nx-forwarded-client-cer", Resemblance::NeedMore);
        check(b"GET admin\r\nhost: x-forwarded-client-cert: me\r\n", Resemblance::NeedMore);
        check(b"GET admin\r\nx-forwarded-client-certs: me\r\n", Resemblance::NeedMore);
    }

    #[test]
    fn other_protocols_do_not() {
        let redis: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let words: [&[u8]; 8] = [
            redis,
            b"SET key value\r\nGET key\r\n",
            b"EHLO shop.example\r\nMAIL FROM:<a@b>\r\n",
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0\x05\xdc",
            b"AMQP\0\0\x09\x01",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"{\"level\": \"GET / HTTP/1.1\"}\n",
            b"INFO GET / HTTP/1.1 200\nINFO GET\n",
        ];
        words.into_iter().for_each(|bytes| check(bytes, Resemblance::None));
    }

    #[test]
    fn a_line_that_has_not_ended_may_become_anything() {
        for bytes in [&b""[..], b"\r\n\r\n", b"GE", b"GET ", b"GET  /a HTTP/1.1", b"SET key value\r\n"] {
            check(bytes, Resemblance::NeedMore);
        }
    }

    #[test]
    fn one_long_word_is_none_when_no_server_would_wait_for_its_end() {
        let word = vec![b'x'; HEAD_ENOUGH];
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
        match end {
            Some(b'\r' | b'\n') if method > 0 && spaced && version => Resemblance::Http,
            // Headers may follow.
            Some(b'\r' | b'\n') if method > 0 && spaced => Resemblance::NeedMore,
            _ => Resemblance::None,
        }
    }

    proptest! {
        #[test]
        fn a_line_says_the_same_byte_by_byte(line in "[GET/htp HTTP1.\t]{0,24}[\r\n\x01]") {
            let mut first = FirstLines::default();
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
