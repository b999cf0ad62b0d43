//! One HTTP/2 connection of a sidecar to the control plane, as heddle-proxy opens it: TLS 1.3 under the mesh's root, without
//! resumption, the pod's token with each request, kept alive by PINGs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use mesh::contract::SYSTEM_NAMESPACE;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

/// As in heddle-proxy.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longer than in heddle-proxy: a thousand sidecars share one thread here, and wait for it longer than for the answer.
const PING_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the control plane is, and how to trust it.
#[derive(Clone)]
pub struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

/// An open connection of a pod.
#[derive(Clone)]
pub struct Link {
    sender: SendRequest<Body>,
    bearer: HeaderValue,
}

impl Target {
    /// The control plane at `address`, whose certificates the roots in `bundle` (PEM) vouch for.
    pub fn new(address: SocketAddr, bundle: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            roots.add(certificate.context("the control plane's roots cannot be read")?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut tls = builder.with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // Each sidecar is a process of its own and knows nothing of the others' sessions.
        tls.resumption = Resumption::disabled();
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// Opens a connection from the address `from`, which is a pod's own: the control plane counts by address.
    pub async fn connect(&self, from: Ipv4Addr, token: &str) -> Result<Link> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into()).with_context(|| format!("cannot call from {from}"))?;
        let stream = socket.connect(self.address).await.context("cannot reach the control plane")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.context("no TLS with the control plane")?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        // Its end is an error of every watch on it, and is counted there.
        tokio::spawn(connection);
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        Ok(Link { sender, bearer })
    }
}

impl Link {
    /// A Kubernetes client whose requests all go over this connection.
    pub fn client(&self) -> kube::Client {
        let link = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let link = link.clone();
            async move { link.send(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Has a certificate signed for a new key, as a sidecar that starts.
    pub async fn sign(&self) -> Result<()> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?.pem()?;
        let request = Request::post("/v1/sign")
            .header(CONTENT_TYPE, "application/pem-certificate-chain")
            .body(Body::from(request.into_bytes()))?;
        let response = self.send(request).await?;
        let status = response.status();
        let body: Bytes = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "not signed ({status}): {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    async fn send(&self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        request.headers_mut().insert(AUTHORIZATION, self.bearer.clone());
        *request.uri_mut() = absolute(request.uri());
        self.sender.clone().send_request(request).await
    }
}

fn host() -> String {
    format!("heddle-injector.{SYSTEM_NAMESPACE}.svc")
}

fn absolute(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("https").authority(host()).path_and_query(path).build();
    uri.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_control_plane_and_keep_path_and_query() {
        let uri = absolute(&Uri::from_static("/api/v1/pods?watch=true"));
        assert_eq!(uri, "https://heddle-injector.heddle-system.svc/api/v1/pods?watch=true");
    }
}
