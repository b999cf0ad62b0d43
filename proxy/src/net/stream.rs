//! What every captured or dialled connection is: bytes both ways, over a TCP socket that can be reset.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client;

/// A byte stream over TCP that can be made to end in a reset.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The TCP socket below.
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn socket(&self) -> &TcpStream {
        (**self).socket()
    }
}

impl Stream for client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}
