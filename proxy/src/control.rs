//! One HTTP/2 connection to the control plane, for signing and for every watch.
//!
//! kube's own connector is HTTP/1, one TLS connection per watch; this one multiplexes them all, finds a dead
//! control plane by PING, and dials anew at the next request.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
    header::{AUTHORIZATION, HeaderValue},
    http::uri::{Authority, Scheme},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::{TcpStream, lookup_host},
    sync::{Mutex, Notify},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tracing::{debug, info};

use crate::{config::Config, identity::provider, metrics};

/// How long a connection to the control plane may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one address may take to accept: a lost packet is sent again after a second.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(1200);
/// How long before the next one is dialled beside it (RFC 8305 section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// A silent connection is asked for a sign of life this often…
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// …and given up when none comes for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts to dial a control plane that does not answer…
const REDIAL: Duration = Duration::from_millis(400);
/// …of which watches wait for one that succeeds, as long as this.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest answer that is read whole: a chain and a bundle.
const ANSWER_MAX: usize = 1024 * 1024;

/// The control plane as this proxy sees it.
pub struct ControlPlane {
    authority: Authority,
    token_file: PathBuf,
    bundle_file: PathBuf,
    link: Mutex<Link>,
    /// Told when there is a connection again.
    linked: Notify,
    /// What is noted of it.
    pub metrics: metrics::Control,
}

/// The connection, or when it was last tried in vain.
#[derive(Default)]
struct Link {
    open: Option<SendRequest<Body>>,
    failed: Option<Instant>,
}

/// Why the control plane could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A file that the kubelet should have mounted cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("cannot reach the control plane at {authority}")]
    Connect {
        /// Where it should be.
        authority: Authority,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the control plane ended the exchange")]
    Http(#[from] hyper::Error),
    /// The answer is too large or broke off.
    #[error("the control plane's answer cannot be read: {0}")]
    Body(String),
    /// It answered, with a refusal.
    #[error("the control plane refused ({status}): {message}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The address in the configuration names no host.
    #[error("HEDDLE_CONTROL must be https://HOST:PORT")]
    Address,
}

impl ControlPlane {
    /// Knows where the control plane is; dials at the first request.
    ///
    /// # Errors
    /// When the configured address names no host.
    pub fn new(config: &Config) -> Result<Self, ControlError> {
        let authority = config.control.authority().cloned().ok_or(ControlError::Address)?;
        Ok(Self {
            authority,
            token_file: config.token_file.clone(),
            bundle_file: config.bundle_file.clone(),
            link: Mutex::default(),
            linked: Notify::new(),
            metrics: metrics::Control::default(),
        })
    }

    /// The same, noted where Prometheus finds it.
    pub fn noting(self, metrics: metrics::Control) -> Self {
        Self { metrics, ..self }
    }

    /// A Kubernetes client whose requests all go over this connection.
    pub fn kube(self: &Arc<Self>, namespace: &str) -> kube::Client {
        let control = Arc::clone(self);
        let service = tower::service_fn(move |request| {
            let control = Arc::clone(&control);
            async move {
                // Everything that is watched goes on in one moment, not each watch after a wait of its own.
                control.wait_for_link().await;
                control.send(request).await
            }
        });
        kube::Client::new(service, namespace)
    }

    /// Sends bytes, and reads the whole answer.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for every status but success.
    pub async fn post(&self, path: &'static str, body: Vec<u8>) -> Result<Bytes, ControlError> {
        let mut request = Request::post(Uri::from_static(path));
        if let Some(headers) = request.headers_mut() {
            headers.insert("content-type", HeaderValue::from_static("application/pem-certificate-chain"));
        }
        let request = request.body(Body::from(body)).map_err(|e| ControlError::Body(e.to_string()))?;
        let response = self.send(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|e| ControlError::Body(e.to_string()))?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(ControlError::Refused { status, message: message(&body) })
        }
    }

    /// Sends one request with this pod's token, read anew, over the one connection.
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, ControlError> {
        let token = read(&self.token_file).await?;
        let bearer = [b"Bearer ", token.trim_ascii()].concat();
        let mut bearer = HeaderValue::try_from(bearer).map_err(|e| self.token_error(io::Error::other(e)))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        *request.uri_mut() = self.absolute(request.uri());
        let mut connection = self.connection().await?;
        Ok(connection.send_request(request).await?)
    }

    fn absolute(&self, uri: &Uri) -> Uri {
        let mut parts = uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| hyper::http::uri::PathAndQuery::from_static("/"));
        Uri::from_parts(parts).unwrap_or_default()
    }

    /// Returns when there is a connection, or when none has come up for long.
    async fn wait_for_link(&self) {
        let until = Instant::now() + PATIENCE;
        while self.connection().await.is_err() && Instant::now() < until {
            // Whoever is told too early to hear it looks again soon.
            let _ = timeout(REDIAL.mul_f64(0.5 + fastrand::f64()), self.linked.notified()).await;
        }
    }

    async fn connection(&self) -> Result<SendRequest<Body>, ControlError> {
        let arrived = Instant::now();
        let mut link = self.link.lock().await;
        if let Some(open) = link.open.as_ref().filter(|open| !open.is_closed()) {
            return Ok(open.clone());
        }
        // Who waited for an attempt that failed, or comes right after it, takes its failure, instead of making one of its own.
        if link.failed.is_some_and(|failed| failed + REDIAL / 2 > arrived) {
            let source = io::Error::other("the attempt just before failed");
            return Err(ControlError::Connect { authority: self.authority.clone(), source });
        }
        match self.connect().await {
            Ok(fresh) => {
                self.linked.notify_waiters();
                Ok(link.open.insert(fresh).clone())
            }
            Err(error) => {
                *link = Link { open: None, failed: Some(Instant::now()) };
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, ControlError> {
        let tls = self.tls_config().await?;
        let connect_error = |source| ControlError::Connect { authority: self.authority.clone(), source };
        let stream = timeout(CONNECT_TIMEOUT, self.dial(tls))
            .await
            .map_err(|_| connect_error(io::ErrorKind::TimedOut.into()))?
            .map_err(connect_error)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        info!(control = %self.authority, "connected to the control plane");
        let connected = self.metrics.connected.clone();
        connected.inc();
        tokio::spawn(async move {
            let ended = connection.await;
            connected.dec();
            debug!(?ended, "the connection to the control plane ended");
        });
        Ok(sender)
    }

    async fn dial(&self, tls: ClientConfig) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let port = self.authority.port_u16().unwrap_or(mesh::contract::CONTROL_PORT);
        let host = self.authority.host().trim_matches(['[', ']']).to_owned();
        let stream = reach(lookup_host((host.as_str(), port)).await?).await?;
        crate::net::socket::tune(&stream);
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await
    }

    async fn tls_config(&self) -> Result<ClientConfig, ControlError> {
        let pem = read(&self.bundle_file).await?;
        let roots =
            roots(&pem).map_err(|source| ControlError::File { path: self.bundle_file.clone(), source })?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| ControlError::Connect {
                authority: self.authority.clone(),
                source: io::Error::other(e),
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn token_error(&self, source: io::Error) -> ControlError {
        ControlError::File { path: self.token_file.clone(), source }
    }
}

/// A connection to the first of these addresses that accepts. One that is silent does not use up the time of the others: the
/// next is dialled beside it after a moment, and at once when one has failed (RFC 8305 section 5).
async fn reach(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.fuse().peekable();
    let mut dials = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = left.next() {
            dials.spawn(timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)));
        }
        let dialled = tokio::select! {
            dialled = dials.join_next() => dialled,
            () = sleep(STAGGER), if left.peek().is_some() => continue,
        };
        match dialled.map(|dialled| dialled.map_err(io::Error::other).and_then(|dialled| dialled?)) {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => return Err(last),
        }
    }
}

/// The trust anchors of a PEM bundle.
///
/// # Errors
/// When the text holds a broken certificate, or none.
pub fn roots(pem: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() { Err(io::Error::other("the bundle holds no certificate")) } else { Ok(roots) }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, ControlError> {
    tokio::fs::read(path).await.map_err(|source| ControlError::File { path: path.clone(), source })
}

/// The words of a Kubernetes `Status`, or the body as it is.
fn message(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let words = status.as_ref().and_then(|status| status["message"].as_str());
    words.map_or_else(|| String::from_utf8_lossy(body).chars().take(300).collect(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    fn listening(backlog: u32) -> tokio::net::TcpListener {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        socket.listen(backlog).expect("listens")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_use_up_the_time_of_the_next() {
        let (silent, good) = (listening(0), listening(8));
        let [silent_at, good_at] = [&silent, &good].map(|one| one.local_addr().expect("an address"));
        // A full queue answers nobody any more.
        let _first = TcpStream::connect(silent_at).await.expect("room for one");
        assert!(timeout(ADDRESS_TIMEOUT, TcpStream::connect(silent_at)).await.is_err(), "it is not silent");
        let began = Instant::now();
        let reached = reach([silent_at, good_at].into_iter()).await.expect("reached");
        assert_eq!(reached.peer_addr().expect("a peer"), good_at);
        assert!(began.elapsed() < ADDRESS_TIMEOUT, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_address_that_refuses_the_next_is_dialled_at_once() {
        let (closed, good) = (listening(1).local_addr().expect("an address"), listening(8));
        let began = Instant::now();
        reach([closed, good.local_addr().expect("an address")].into_iter()).await.expect("reached");
        assert!(began.elapsed() < STAGGER, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_last_error_is_told_and_a_name_without_addresses_is_one() {
        let closed = listening(1).local_addr().expect("an address");
        let refused = reach([closed].into_iter()).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = reach([].into_iter()).await.expect_err("nowhere to go");
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
    }
}
