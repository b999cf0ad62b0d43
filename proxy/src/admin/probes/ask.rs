//! Asking the application what the kubelet would ask: by HTTP, HTTPS, gRPC or TCP.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Version,
    body::Bytes,
    client::conn::{http1, http2},
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::contract::{HEALTH_PORT, METRICS_PORT};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{
    identity::provider,
    net::socket::{connect, is_own_port},
};

/// The method of the health service that every gRPC probe calls (gRPC Health Checking Protocol).
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// The most of a health answer that is read.
const HEALTH_MAX: usize = 4096;
/// `HealthCheckResponse { status: SERVING }`, in protobuf, behind gRPC's five bytes of frame.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

type Failed = Box<dyn Error + Send + Sync>;

/// What a probe asks.
#[derive(Debug)]
pub enum Asks {
    /// A GET, whose answer's status tells.
    Http(HttpGet),
    /// Whether a service is in health.
    Grpc {
        /// Its port.
        port: u16,
        /// Its name; empty for the whole server.
        service: String,
    },
    /// Whether the port accepts.
    Tcp {
        /// The port.
        port: u16,
    },
}

/// An `httpGet` of a manifest.
#[derive(Debug)]
pub struct HttpGet {
    tls: bool,
    port: u16,
    path: String,
    host: String,
    headers: Vec<(String, String)>,
}

impl Asks {
    /// Reads one of `httpGet`, `grpc` and `tcpSocket`. The proxy never dials itself: its own ports are none.
    pub fn parse(probe: &Value) -> Option<Self> {
        let port = |of: &Value| {
            let port = u16::try_from(of["port"].as_u64()?).ok()?;
            let own = is_own_port(port) || [METRICS_PORT, HEALTH_PORT].contains(&port);
            (!own).then_some(port)
        };
        let (http, grpc, tcp) = (&probe["httpGet"], &probe["grpc"], &probe["tcpSocket"]);
        if http.is_object() {
            return Some(Self::Http(HttpGet::parse(http, port(http)?)));
        }
        if grpc.is_object() {
            return Some(Self::Grpc {
                port: port(grpc)?,
                service: text(&grpc["service"]).unwrap_or_default(),
            });
        }
        Some(Self::Tcp { port: port(tcp)? })
    }

    /// Asks the application at `ip`; the status that the kubelet is to see.
    ///
    /// # Errors
    /// When it gives no answer.
    pub async fn ask(&self, ip: IpAddr) -> Result<StatusCode, Failed> {
        match self {
            Self::Http(get) => get.ask(ip).await,
            Self::Grpc { port, service } => health(SocketAddr::new(ip, *port), service).await,
            Self::Tcp { port } => {
                connect(SocketAddr::new(ip, *port), None).await?;
                Ok(StatusCode::OK)
            }
        }
    }
}

impl HttpGet {
    fn parse(get: &Value, port: u16) -> Self {
        let headers = get["httpHeaders"].as_array().into_iter().flatten();
        let headers = headers.filter_map(|header| Some((text(&header["name"])?, text(&header["value"])?)));
        Self {
            tls: get["scheme"].as_str() == Some("HTTPS"),
            port,
            path: text(&get["path"]).filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into()),
            host: text(&get["host"]).unwrap_or_default(),
            headers: headers.collect(),
        }
    }

    async fn ask(&self, ip: IpAddr) -> Result<StatusCode, Failed> {
        let address = SocketAddr::new(ip, self.port);
        let stream = connect(address, None).await?;
        if !self.tls {
            return self.get(stream, address).await;
        }
        let tls = TlsConnector::from(trusting()?).connect(ServerName::IpAddress(ip.into()), stream).await?;
        self.get(tls, address).await
    }

    async fn get(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: SocketAddr,
    ) -> Result<StatusCode, Failed> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::get(&self.path).body(Full::<Bytes>::default())?;
        *request.headers_mut() = request_headers(&self.host, &self.headers, address)?;
        Ok(sender.send_request(request).await?.status())
    }
}

fn text(of: &Value) -> Option<String> {
    of.as_str().map(str::to_owned)
}

/// The headers of a probe, as the kubelet makes them: what the manifest names comes in the place of what is usual.
fn request_headers(host: &str, named: &[(String, String)], address: SocketAddr) -> Result<HeaderMap, Failed> {
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let usual_host = if host.is_empty() { address.to_string() } else { host.to_owned() };
    headers.entry(HOST).or_insert(HeaderValue::try_from(usual_host)?);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("kube-probe/heddle"));
    Ok(headers)
}

/// 200 if the service says that it serves, 503 if it says anything else.
async fn health(address: SocketAddr, service: &str) -> Result<StatusCode, Failed> {
    let stream = TokioIo::new(connect(address, None).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{address}{HEALTH}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "kube-probe/heddle")
        .body(Full::<Bytes>::from(health_request(service)))?;
    let response = sender.send_request(request).await?;
    let answer = http_body_util::Limited::new(response.into_body(), HEALTH_MAX).collect().await?.to_bytes();
    Ok(if answer.starts_with(&SERVING) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

/// `HealthCheckRequest { service }` in protobuf: field 1, its length as a varint, its bytes; behind gRPC's frame.
fn health_request(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length % 0x80).unwrap_or_default() | 0x80);
            length /= 0x80;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let size = u32::try_from(message.len()).unwrap_or_default();
    [&[0], &size.to_be_bytes()[..], &message].concat()
}

/// TLS that trusts whoever answers, as the kubelet does ("no certificate verification"): the address is our own pod's.
fn trusting() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

struct Anybody;

impl fmt::Debug for Anybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anybody")
    }
}

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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_the_manifest_names_is_the_only_one() {
        let named = [("Host".to_owned(), "shop.example".to_owned())];
        let headers = request_headers("", &named, ([10, 0, 0, 1], 80).into()).expect("headers");
        let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
        assert_eq!(hosts, ["shop.example"]);
    }

    #[test]
    fn a_health_request_is_framed_protobuf() {
        assert_eq!(health_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(health_request("loom"), *b"\0\0\0\0\x06\x0a\x04loom");
        let long = health_request(&"w".repeat(300));
        assert_eq!((long.len(), &long[5..8]), (5 + 3 + 300, &[0x0a, 0xac, 0x02][..]));
    }
}
