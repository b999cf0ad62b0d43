//! What a connection speaks, from its first bytes. Every answer but "more" is final: it follows from the bytes that are
//! there, so further ones cannot change it.
//!
//! An opaque answer costs a feature, a wrong HTTP answer breaks a connection: HTTP/1 is only said when a method of HTTP is
//! followed by a target of HTTP, or when the request line says `HTTP/1.`

mod hello;
mod resemblance;

pub use hello::{ClientHello, client_hello};
pub use resemblance::{FirstLines, Resemblance, resembles_http};

/// No more bytes than these are needed for anything but TLS: the longest request line that servers commonly take.
const ENOUGH: usize = 8192;
/// Longer methods are not looked for: the longest that is registered has 17 characters (RFC 9110, section 16.1). So one
/// long word is known at once to be none.
const METHOD_ENOUGH: usize = 64;
/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The methods of RFC 9110, PATCH, and those of WebDAV that are no commands of FTP, RTSP or SIP.
const METHODS: [&[u8]; 21] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"REPORT",
    b"MKACTIVITY",
    b"CHECKOUT",
    b"MERGE",
    b"MKCALENDAR",
];

/// A protocol that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// HTTP/1.
    Http1,
    /// HTTP/2, by its preface.
    Http2,
    /// TLS, by its ClientHello.
    Tls,
    /// None of these.
    Opaque,
}

/// What is known by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detection {
    /// It is this, whatever comes.
    Known(Detected),
    /// More bytes must tell.
    NeedMore,
}

const HTTP1: Detection = Detection::Known(Detected::Http1);
const OPAQUE: Detection = Detection::Known(Detected::Opaque);

/// What the connection that begins with `bytes` speaks.
pub fn detect(bytes: &[u8]) -> Detection {
    match bytes.first() {
        None => Detection::NeedMore,
        Some(0x16) => tls(bytes),
        Some(_) => http(bytes.get(..ENOUGH).unwrap_or(bytes)),
    }
}

/// A record of handshake type, of version 3.x, that begins with a ClientHello (RFC 8446, section 5.1).
fn tls(bytes: &[u8]) -> Detection {
    let fits = |ix: usize, byte: u8| match ix {
        0 => byte == 0x16,
        1 => byte == 3,
        2 => byte <= 4,
        3 => byte <= 0x40,
        4 => true,
        _ => byte == 1,
    };
    if !bytes.iter().take(6).enumerate().all(|(ix, byte)| fits(ix, *byte)) {
        return OPAQUE;
    }
    if bytes.len() < 6 { Detection::NeedMore } else { Detection::Known(Detected::Tls) }
}

fn http(bytes: &[u8]) -> Detection {
    if bytes.starts_with(PREFACE) {
        return Detection::Known(Detected::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return Detection::NeedMore;
    }
    // Servers skip empty lines before a request (RFC 9112, section 2.2), most of them any number.
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    request(bytes.get(empty..).unwrap_or_default(), bytes.len() == ENOUGH)
}

/// A request of HTTP/1, from its method on; `all` says that no more bytes will be asked for.
fn request(bytes: &[u8], all: bool) -> Detection {
    let method_ends = bytes.iter().take(METHOD_ENOUGH + 1).position(|byte| !is_token(*byte));
    match method_ends {
        Some(end) if end > 0 && bytes.get(end) == Some(&b' ') => {
            let (method, target) = bytes.split_at(end);
            http1(method, target.get(1..).unwrap_or_default(), all)
        }
        None if !all && bytes.len() <= METHOD_ENOUGH => Detection::NeedMore,
        Some(_) | None => OPAQUE,
    }
}

/// `rest` is what follows the method and its space; `all` is as above.
fn http1(method: &[u8], rest: &[u8], all: bool) -> Detection {
    let Some(first) = rest.first() else { return Detection::NeedMore };
    let known = METHODS.contains(&method);
    match first {
        b'/' if known => HTTP1,
        b'[' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' if method == b"CONNECT" => HTTP1,
        b'/' | b'*' => request_line(rest, all),
        b'h' | b'H' => absolute(rest),
        _ => OPAQUE,
    }
}

/// An absolute target: `http://` or `https://`.
fn absolute(rest: &[u8]) -> Detection {
    let begins = |scheme: &[u8]| {
        let len = rest.len().min(scheme.len());
        rest.get(..len)
            .is_some_and(|start| scheme.get(..len).is_some_and(|scheme| start.eq_ignore_ascii_case(scheme)))
    };
    let whole = |scheme: &[u8]| begins(scheme) && rest.len() >= scheme.len();
    if whole(b"http://") || whole(b"https://") {
        return HTTP1;
    }
    if begins(b"http://") || begins(b"https://") { Detection::NeedMore } else { OPAQUE }
}

/// A line that only its version tells from another protocol's: `TARGET HTTP/1.` One that is too long to tell is HTTP's:
/// no other protocol begins so, and HTTP's server answers it as it should.
fn request_line(rest: &[u8], all: bool) -> Detection {
    const VERSION: &[u8] = b" HTTP/1.";
    let Some(space) = rest.iter().position(|byte| !byte.is_ascii_graphic()) else {
        return if all { HTTP1 } else { Detection::NeedMore };
    };
    let version = rest.get(space..).unwrap_or_default();
    if version.starts_with(VERSION) {
        return HTTP1;
    }
    if VERSION.starts_with(version) && !all { Detection::NeedMore } else { OPAQUE }
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
