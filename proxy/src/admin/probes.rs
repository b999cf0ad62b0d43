//! The kubelet's probes, replayed to the application.
//!
//! The kubelet has no identity, so in strict mode it cannot reach the application. The injector points its probes here
//! instead; exactly the configured request is made, and nothing of it is taken from the caller.

mod ask;
mod replays;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::text;
use crate::body::Body;
use ask::Asks;
use replays::{Answer, Replays};

/// The probes of this pod, by `CONTAINER/PROBE`.
pub struct Probes {
    ip: IpAddr,
    probes: HashMap<String, Arc<Probe>>,
}

struct Probe {
    asks: Asks,
    limit: Duration,
    replays: Replays,
}

/// What is wrong with `HEDDLE_APP_PROBES`.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Not JSON.
    #[error("HEDDLE_APP_PROBES is not JSON")]
    Json(#[from] serde_json::Error),
    /// A probe that is none of the known kinds, or goes to the proxy itself.
    #[error("HEDDLE_APP_PROBES: {0} is neither httpGet, tcpSocket nor grpc with a port of the application")]
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
            Some(probe) => Ok((name, Arc::new(probe))),
            None => Err(ProbesError::Probe(name)),
        };
        let probes = described.into_iter().map(probe).collect::<Result<_, _>>()?;
        Ok(Self { ip: ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), probes })
    }

    /// Makes one probe, and answers as the application did. A probe that is just being made is not made again, but its
    /// answer shared.
    pub async fn replay(&self, name: &str) -> Response<Body> {
        let Some(probe) = self.probes.get(name) else {
            return text(StatusCode::NOT_FOUND, "no such probe\n");
        };
        match probe.replays.share(|| Arc::clone(probe).replay(self.ip)).await {
            Some((status, words)) => text(status, words),
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "the probe broke off\n"),
        }
    }
}

impl Probe {
    fn parse(value: &Value) -> Option<Self> {
        let limit = Duration::from_secs(value["timeoutSeconds"].as_u64().unwrap_or(1));
        Some(Self { asks: Asks::parse(value)?, limit, replays: Replays::default() })
    }

    async fn replay(self: Arc<Self>, ip: IpAddr) -> Answer {
        match timeout(self.limit, self.asks.ask(ip)).await {
            Ok(Ok(status)) => (status, format!("the application answered {status}\n")),
            Ok(Err(error)) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("the application does not answer: {error}\n"))
            }
            Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the application does not answer in time\n".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[track_caller]
    fn check_refused(probe: &str) {
        let json = format!(r#"{{"web/livenessProbe":{probe}}}"#);
        let error = Probes::parse(&json, None).err().expect("refused");
        assert!(error.to_string().contains("web/livenessProbe"));
    }

    #[test]
    fn a_probe_of_no_known_kind_is_named() {
        check_refused(r#"{"exec":{}}"#);
    }

    #[test]
    fn a_probe_of_the_proxy_itself_is_refused() {
        check_refused(r#"{"httpGet":{"port":15021,"path":"/app-probe/web/livenessProbe"}}"#);
        check_refused(r#"{"tcpSocket":{"port":15020}}"#);
        check_refused(r#"{"grpc":{"port":15006}}"#);
    }

    #[tokio::test]
    async fn only_configured_probes_are_made() {
        let probes = Probes::parse("{}", None).expect("no probes");
        assert_eq!(probes.replay("web/livenessProbe").await.status(), StatusCode::NOT_FOUND);
    }

    /// An application that answers its first caller; whether there was a second one by then.
    async fn answer_once(application: TcpListener) -> bool {
        let (mut caller, _) = application.accept().await.expect("a caller");
        assert!(caller.read(&mut [0; 1024]).await.expect("a request") > 0);
        let second = timeout(Duration::from_millis(100), application.accept()).await.is_ok();
        caller.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        second
    }

    #[tokio::test]
    async fn many_callers_of_one_probe_are_one_to_the_application() {
        let application = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = application.local_addr().expect("address").port();
        let json = format!(r#"{{"web/livenessProbe":{{"httpGet":{{"port":{port}}},"timeoutSeconds":60}}}}"#);
        let probes = Probes::parse(&json, None).expect("a probe");
        let replay = || probes.replay("web/livenessProbe");
        let (one, other, second) = tokio::join!(replay(), replay(), answer_once(application));
        assert_eq!([one.status(), other.status()], [StatusCode::NO_CONTENT; 2]);
        assert!(!second);
    }
}
