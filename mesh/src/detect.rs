//! What a connection speaks, from its first bytes.

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

/// What the connection that begins with `bytes` speaks.
pub fn detect(bytes: &[u8]) -> Detection {
    let _ = bytes;
    Detection::NeedMore
}

/// What a ClientHello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// It is not complete.
    NeedMore,
    /// It is none, or over 16 KiB.
    Invalid,
    /// It is complete.
    Hello {
        /// The protocols that the client offers, in its order.
        alpn: Vec<Vec<u8>>,
        /// The server's name, in lower case.
        sni: Option<String>,
    },
}

/// Reads a ClientHello from the first bytes of a connection.
pub fn client_hello(bytes: &[u8]) -> ClientHello {
    let _ = bytes;
    ClientHello::NeedMore
}
