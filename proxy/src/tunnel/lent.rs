//! A tunnel in the hands of whoever carries it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Mutex, OwnedMutexGuard},
};

use super::Tunnels;
use crate::net::stream::Stream;

/// The right to a connection's tunnels, until it is dropped: whoever wants the next waits for that.
#[derive(Debug)]
pub struct Lent<S>(OwnedMutexGuard<Tunnels<S>>);

impl<S> Lent<S> {
    /// Waits until nobody else has it.
    pub async fn of(tunnels: &Arc<Mutex<Tunnels<S>>>) -> Self {
        Self(Arc::clone(tunnels).lock_owned().await)
    }

    /// The connection.
    pub fn get_mut(&mut self) -> &mut Tunnels<S> {
        &mut self.0
    }
}

impl<S: Stream> Stream for Lent<S> {
    fn socket(&self) -> &TcpStream {
        self.0.socket()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        self.0.certificates_end()
    }
}

impl<S: Stream> AsyncRead for Lent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
