//! The kubelet's probes, replayed to the application.
//!
//! The kubelet has no identity, so in strict mode it cannot reach the application. The injector points its probes here
//! instead; exactly the configured request is made, and nothing of it is taken from the caller.

mod ask;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::text;
use crate::body::Body;
use ask::Asks;

/// The probes of this pod, by `CONTAINER/PROBE`.
pub struct Probes {
    ip: IpAddr,
    probes: HashMap<String, Probe>,
}

struct Probe {
    asks: Asks,
    limit: Duration,
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
        match timeout(probe.limit, probe.asks.ask(self.ip)).await {
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
        Some(Self { asks: Asks::parse(value)?, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_of_no_known_kind_is_named() {
        let error = Probes::parse(r#"{"web/livenessProbe":{"exec":{}}}"#, None).err().expect("refused");
        assert!(error.to_string().contains("web/livenessProbe"));
    }

    #[tokio::test]
    async fn only_configured_probes_are_made() {
        let probes = Probes::parse("{}", None).expect("no probes");
        assert_eq!(probes.replay("web/livenessProbe").await.status(), StatusCode::NOT_FOUND);
    }
}
