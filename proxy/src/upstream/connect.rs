//! Dialling an endpoint: TCP, and mesh TLS where it is meshed.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use mesh::identity::Identity;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{Endpoint, Transport, tunnel_pool::Kept};
use crate::{
    failure::ConnectError,
    identity::{Credentials, Inside, Proven, Trusted},
    net::{
        socket::{self, CONNECT_TIMEOUT, reset_on_close},
        stream::Stream,
    },
    tls::{self, Tls},
};

/// How long the TLS handshake may take once the endpoint has accepted.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Upstream {
    /// As it is.
    Plain(TcpStream),
    /// In mesh TLS.
    Mesh(Box<Peer>),
    /// In a tunnel of a mesh TLS connection that is kept for the next one.
    Tunnel(Box<Kept>),
}

/// A connection to a peer's proxy.
pub type Peer = Trusted<Tls<TcpStream>>;

impl Endpoint {
    /// A connection to the endpoint; what is `inside` matters to a mesh proxy alone.
    ///
    /// # Errors
    /// When nothing answers, or somebody else than the expected identity does.
    pub async fn connect(&self, inside: Inside) -> Result<Upstream, ConnectError> {
        match &self.transport {
            Transport::Plain => Ok(Upstream::Plain(self.dial().await?)),
            Transport::Mesh(expected) => {
                Ok(Upstream::Mesh(Box::new(self.connect_mesh(expected, inside).await?.0)))
            }
            Transport::Unnameable => Err(ConnectError::Unnameable),
        }
    }

    /// A connection to the endpoint for the bytes of one client; a tunnel of a kept one where there is any.
    ///
    /// # Errors
    /// As [`Endpoint::connect`].
    pub async fn connect_tunnel(&self) -> Result<Upstream, ConnectError> {
        let Transport::Mesh(expected) = &self.transport else { return self.connect(Inside::Tcp).await };
        let generation = self.generation()?;
        let tunnel = match self.tunnels.take(generation) {
            Some(kept) => kept,
            None => match self.connect_mesh(expected, Inside::Tunnels).await? {
                (peer, Inside::Tunnels) => Kept::new(peer, generation),
                (peer, _older) => return Ok(Upstream::Mesh(Box::new(peer))),
            },
        };
        Ok(Upstream::Tunnel(tunnel.open()))
    }

    /// Takes a connection back whose client has ended.
    pub fn give_back(&self, upstream: Upstream) {
        if let Upstream::Tunnel(kept) = upstream {
            self.tunnels.put(kept);
        }
    }

    /// A connection to it has failed before a byte came: those that are kept are not trusted any more.
    pub fn forget_kept(&self) {
        self.tunnels.clear();
    }

    /// The generation of our certificate that a connection made now belongs to; 0 where none is used.
    pub(super) fn generation(&self) -> Result<u64, ConnectError> {
        match self.transport {
            Transport::Plain => Ok(0),
            Transport::Mesh(_) | Transport::Unnameable => Ok(self.current()?.generation),
        }
    }

    fn current(&self) -> Result<Arc<Credentials>, ConnectError> {
        self.credentials.borrow().clone().ok_or(ConnectError::NoCertificate)
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        if self.here {
            socket::connect_here(self.addr, Some(CONNECT_TIMEOUT)).await
        } else {
            socket::connect(self.addr, Some(CONNECT_TIMEOUT)).await
        }
    }

    async fn connect_mesh(
        &self,
        expected: &Identity,
        inside: Inside,
    ) -> Result<(Peer, Inside), ConnectError> {
        let own = self.current()?;
        let config = own.client_config(expected, inside);
        let config = config.map_err(|e| ConnectError::Tls(io::Error::other(e)))?;
        let stream = self.dial().await?;
        let name = ServerName::IpAddress(self.addr.ip().into());
        let handshake = timeout(HANDSHAKE_TIMEOUT, tls::connect(config, name, stream)).await;
        let handshake = handshake.map_err(|_| ConnectError::Timeout(HANDSHAKE_TIMEOUT.as_secs()))?;
        let (tls, agreed) = handshake.map_err(ConnectError::Tls)?;
        // A server that agreed on nothing is no mesh proxy, whatever its certificate says.
        let (peer, inside) = (Proven::new(agreed.certificates), Inside::agreed(agreed.alpn.as_deref()));
        if let (Some(peer), Some(inside)) = (peer, inside) {
            return Ok((Trusted::new(tls, peer, &own, self.credentials.clone()), inside));
        }
        reset_on_close(tls.socket());
        Err(ConnectError::Tls(io::Error::other("the peer does not speak mesh TLS")))
    }
}

impl Upstream {
    /// How long it may take new requests; for ever where there is no certificate that ends.
    pub(super) fn usable(&self) -> Option<Duration> {
        match self {
            Self::Plain(_) => None,
            Self::Mesh(tls) => Some(tls.usable()),
            Self::Tunnel(kept) => Some(kept.get_ref().usable()),
        }
    }

    /// Whether the endpoint has reset the connection: the kernel then no longer knows a peer of it. (A client's
    /// reset leaves the endpoint's side as it is.)
    pub fn was_reset(&self) -> bool {
        self.socket().peer_addr().is_err()
    }

    /// Returns when the endpoint has sent something of its own, or has ended.
    pub async fn readable(&mut self) {
        match self {
            // Neither consumes anything; what they say is said again by the relay's own read.
            Self::Plain(stream) => drop(stream.peek(&mut [0; 1]).await),
            Self::Mesh(tls) => drop(poll_fn(|cx| tls.get_mut().poll_readable(cx)).await),
            Self::Tunnel(kept) => kept.readable().await,
        }
    }
}

impl Stream for Upstream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Mesh(tls) => tls.socket(),
            Self::Tunnel(kept) => kept.socket(),
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        match self {
            Self::Plain(_) => None,
            Self::Mesh(tls) => tls.certificates_end(),
            Self::Tunnel(kept) => kept.certificates_end(),
        }
    }
}

impl AsyncRead for Upstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Mesh(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Tunnel(kept) => Pin::new(&mut ***kept).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Mesh(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Tunnel(kept) => Pin::new(&mut ***kept).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Mesh(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Tunnel(kept) => Pin::new(&mut ***kept).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(tls) => Pin::new(tls).poll_flush(cx),
            Self::Tunnel(kept) => Pin::new(&mut ***kept).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Tunnel(kept) => Pin::new(&mut ***kept).poll_shutdown(cx),
        }
    }
}
