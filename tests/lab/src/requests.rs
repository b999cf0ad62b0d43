//! Small HTTP requests from a chosen network namespace: probes, the control plane, the proxies' admin ports.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
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
    let stream = connect(netns, to).await?;
    let name = ServerName::try_from(name.to_owned()).context("not a server's name")?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok((status, body.map_err(|why| anyhow::anyhow!("{why}"))?.to_bytes()))
    };
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
