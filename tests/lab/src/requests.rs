//! Small HTTP requests from a chosen network namespace: probes, the control plane, the proxies' admin ports.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use crate::net;

/// No answer that the lab asks for is larger.
const MAX_BODY: usize = 64 << 20;

/// An answer's status and body.
pub type Answer = (http::StatusCode, Bytes);

/// Connects from a network namespace: a socket stays in the namespace in which it was made.
pub async fn connect(netns: &str, to: SocketAddr) -> Result<TcpStream> {
    let make = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = net::inside(netns, || make().context("cannot make a socket"))?;
    Ok(socket.connect(to).await?)
}

/// One request over a new connection, in plain text.
pub async fn plain(netns: &str, to: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    exchange(connect(netns, to).await?, request).await
}

/// One request over a new TLS connection.
pub async fn secure(
    netns: &str,
    to: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Answer> {
    exchange(shake_hands(netns, to, name, config).await?, request).await
}

async fn shake_hands(
    netns: &str,
    to: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = connect(netns, to).await?;
    let name = ServerName::try_from(name.to_owned()).context("not a server's name")?;
    Ok(tokio_rustls::TlsConnector::from(config).connect(name, stream).await?)
}

/// A TLS connection that is kept between requests: a handshake costs more than all that the lab asks for. Who asks
/// while another one is being answered gets a connection of its own.
#[derive(Default)]
pub struct Kept(RefCell<Option<SendRequest<Full<Bytes>>>>);

impl Kept {
    /// One request, which may be sent twice: the server may close a connection just when it is used.
    pub async fn secure(
        &self,
        netns: &str,
        to: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer> {
        let kept = self.0.take();
        if let Some(kept) = kept.filter(|kept| !kept.is_closed())
            && let Ok(answer) = self.ask(kept, request.clone()).await
        {
            return Ok(answer);
        }
        let stream = shake_hands(netns, to, name, config).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        self.ask(sender, request).await
    }

    /// Only a connection that has answered is kept.
    async fn ask(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer> {
        sender.ready().await?;
        let answer = whole(sender.send_request(request).await?).await?;
        self.0.replace(Some(sender));
        Ok(answer)
    }
}

async fn whole(response: http::Response<hyper::body::Incoming>) -> Result<Answer> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    Ok((status, body.map_err(|why| anyhow::anyhow!("{why}"))?.to_bytes()))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let answer = async { whole(sender.send_request(request).await?).await };
    tokio::pin!(answer);
    tokio::select! {
        result = &mut answer => return result,
        // The connection may end right after the answer came, before the answer was taken.
        ended = connection => ended?,
    }
    answer.await
}

/// TLS that trusts the certificates of a PEM file.
pub fn trusting(pem: &[u8]) -> Result<Arc<ClientConfig>> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("the bundle is not PEM")?)?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// TLS that trusts anybody: for probes, which in Kubernetes do not verify either.
pub fn trusting_all() -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Anybody(provider()));
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
