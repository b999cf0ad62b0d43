//! What every captured or dialled connection is: bytes both ways, over a TCP socket that can be reset.

use std::time::SystemTime;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A byte stream over TCP that can be made to end in a reset.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The TCP socket below.
    fn socket(&self) -> &TcpStream;

    /// Whether its bytes are the socket's: whether there is something to read can then be known without reading, and each read
    /// is a system call.
    fn is_plain(&self) -> bool {
        false
    }

    /// When the first of the certificates ends that the connection was made with; none if it was made with none.
    fn certificates_end(&self) -> Option<SystemTime> {
        None
    }
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn is_plain(&self) -> bool {
        true
    }
}

impl<S: Stream + ?Sized> Stream for &mut S {
    fn socket(&self) -> &TcpStream {
        (**self).socket()
    }

    fn is_plain(&self) -> bool {
        (**self).is_plain()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        (**self).certificates_end()
    }
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn socket(&self) -> &TcpStream {
        (**self).socket()
    }

    fn is_plain(&self) -> bool {
        (**self).is_plain()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        (**self).certificates_end()
    }
}
