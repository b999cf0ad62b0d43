//! Whether bytes that are not routed as HTTP might still be read as HTTP by a lenient server.
//!
//! Detection says HTTP only where it is certain, because a wrong HTTP answer breaks a connection. The side that
//! vouches for identities needs the opposite certainty: that no server behind it takes opaque bytes for a request, with
//! headers that nobody has looked at. Servers read `GET  /a HTTP/1.1` with two spaces, tabs between the words,
//! any scheme, and any number of empty lines in front; what they all need is a method, white space after it, and a
//! line that ends in the version.

/// Longer first lines are HTTP's if they begin with a method; no other protocol's do.
const ENOUGH: usize = 8192;

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
    let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let unclear = if bytes.len() >= ENOUGH { Resemblance::Http } else { Resemblance::NeedMore };
    let line = bytes.get(blank..).unwrap_or_default();
    let Some(method) = line.iter().position(|byte| !super::is_token(*byte)) else { return unclear };
    let rest = line.get(method..).unwrap_or_default();
    if method == 0 || !matches!(rest.first(), Some(b' ' | b'\t')) {
        return Resemblance::None;
    }
    match rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') {
        None => unclear,
        Some(end) if matches!(rest.get(end), Some(b'\r' | b'\n')) && ends_in_version(rest.get(..end)) => {
            Resemblance::Http
        }
        Some(_) => Resemblance::None,
    }
}

/// The last word is `HTTP/` and something.
fn ends_in_version(line: Option<&[u8]>) -> bool {
    let line = line.unwrap_or_default().trim_ascii_end();
    let word = line.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
    word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"))
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

    proptest! {
        #[test]
        fn an_answer_is_final(bytes in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..40) {
            let early = resembles_http(bytes.get(..cut).unwrap_or(&bytes));
            prop_assert!(early == Resemblance::NeedMore || early == resembles_http(&bytes));
        }
    }
}
