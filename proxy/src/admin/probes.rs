//! The kubelet's probes, replayed to the application.
//!
//! The kubelet has no identity, so in strict mode it cannot reach the application. The injector points its probes here
//! instead; exactly the configured request is made, and nothing of it is taken from the caller.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hyper::{
    HeaderMap, Request, Response, StatusCode,
    client::conn::http1,
    header::{HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::text;
use crate::{body::Body, net::socket::connect};

/// The probes of this pod, by `CONTAINER/PROBE`.
pub struct Probes {
    ip: IpAddr,
    probes: HashMap<String, Probe>,
}

struct Probe {
    asks: Asks,
    limit: Duration,
}

enum Asks {
    Http {
        port: u16,
        path: String,
        host: String,
        headers: Vec<(String, String)>,
    },
    /// A TCP probe; also what remains of HTTPS and gRPC probes today: that the port accepts.
    Tcp {
        port: u16,
    },
}

/// What is wrong with `HEDDLE_APP_PROBES`.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Not JSON.
    #[error("HEDDLE_APP_PROBES is not JSON")]
    Json(#[from] serde_json::Error),
    /// A probe that is none of the known kinds.
    #[error("HEDDLE_APP_PROBES: {0} is neither httpGet, tcpSocket nor grpc with a port number")]
    Probe(String),
}

impl Probes {
    /// Reads what the injector wrote.
    ///
    /// # Errors
    /// When it is not what an injector writes.
    pub fn parse(json: &str, ip: Option<IpAddr>) -> Result<Self, ProbesError> {
        let described: HashMap<String, Value> = serde_json::from_str(json)?;
        let probe = |(name, value): (String, Value)| match Probe::parse(&value) {
            Some(probe) => Ok((name, probe)),
            None => Err(ProbesError::Probe(name)),
        };
        let probes = described.into_iter().map(probe).collect::<Result<_, _>>()?;
        Ok(Self { ip: ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), probes })
    }

    /// Makes one probe, and answers as the application did.
    pub async fn replay(&self, name: &str) -> Response<Body> {
        let Some(probe) = self.probes.get(name) else {
            return text(StatusCode::NOT_FOUND, "no such probe\n");
        };
        match timeout(probe.limit, probe.ask(self.ip)).await {
            Ok(Ok(status)) => text(status, format!("the application answered {status}\n")),
            Ok(Err(error)) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("the application does not answer: {error}\n"))
            }
            Err(_) => text(StatusCode::GATEWAY_TIMEOUT, "the application does not answer in time\n"),
        }
    }
}

impl Probe {
    fn parse(value: &Value) -> Option<Self> {
        let limit = Duration::from_secs(value["timeoutSeconds"].as_u64().unwrap_or(1));
        let port = |of: &Value| of["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let text = |of: &Value| of.as_str().map(str::to_owned);
        let http = &value["httpGet"];
        let asks = if http.is_object() && http["scheme"].as_str() != Some("HTTPS") {
            let headers = http["httpHeaders"].as_array().into_iter().flatten();
            let headers =
                headers.filter_map(|header| Some((text(&header["name"])?, text(&header["value"])?)));
            Asks::Http {
                port: port(http)?,
                path: text(&http["path"]).unwrap_or_else(|| "/".into()),
                host: text(&http["host"]).unwrap_or_default(),
                headers: headers.collect(),
            }
        } else {
            let tcp = [http, &value["tcpSocket"], &value["grpc"]].into_iter().find(|of| of.is_object())?;
            Asks::Tcp { port: port(tcp)? }
        };
        Some(Self { asks, limit })
    }

    async fn ask(&self, ip: IpAddr) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
        match &self.asks {
            Asks::Tcp { port } => {
                connect(SocketAddr::new(ip, *port), None).await?;
                Ok(StatusCode::OK)
            }
            Asks::Http { port, path, host, headers } => {
                let address = SocketAddr::new(ip, *port);
                let stream = connect(address, None).await?;
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                let mut request = Request::get(path).body(Body::empty())?;
                let headers = request_headers(host, headers, address)?;
                *request.headers_mut() = headers;
                Ok(sender.send_request(request).await?.status())
            }
        }
    }
}

/// The headers of a probe, as the kubelet makes them: what the manifest names comes in the place of what is usual.
fn request_headers(
    host: &str,
    named: &[(String, String)],
    address: SocketAddr,
) -> Result<HeaderMap, Box<dyn std::error::Error + Send + Sync>> {
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let usual_host = if host.is_empty() { address.to_string() } else { host.to_owned() };
    headers.entry(HOST).or_insert(HeaderValue::try_from(usual_host)?);
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static("kube-probe/heddle"));
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_of_no_known_kind_is_named() {
        let error = Probes::parse(r#"{"web/livenessProbe":{"exec":{}}}"#, None).err().expect("refused");
        assert!(error.to_string().contains("web/livenessProbe"));
    }

    #[test]
    fn a_host_that_the_manifest_names_is_the_only_one() {
        let named = [("Host".to_owned(), "shop.example".to_owned())];
        let headers = request_headers("", &named, ([10, 0, 0, 1], 80).into()).expect("headers");
        let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
        assert_eq!(hosts, ["shop.example"]);
    }

    #[tokio::test]
    async fn only_configured_probes_are_made() {
        let probes = Probes::parse("{}", None).expect("no probes");
        assert_eq!(probes.replay("web/livenessProbe").await.status(), StatusCode::NOT_FOUND);
    }
}
