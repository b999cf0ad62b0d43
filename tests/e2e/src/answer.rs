//! What clients in pods brought home: an answer of `curl -i`, or the counts of `echo load`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// Of `curl -i`'s output: the last of its responses (1xx ones come before it).
    pub fn parse(text: &str) -> Result<Self> {
        let mut rest = text;
        loop {
            let (head, body) =
                rest.split_once("\r\n\r\n").with_context(|| format!("no response: {text:?}"))?;
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.with_context(|| format!("no status line: {head:?}"))?;
            if status >= 200 {
                return Ok(Self { status, headers: fields(head), body: body.to_owned() });
            }
            rest = body;
        }
    }

    /// A header of the response; all of that name, joined.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The server that answered; empty if the mesh did.
    pub fn server(&self) -> String {
        self.header("x-server").unwrap_or_default()
    }

    /// A field of the echo server's account: `path`, `method`, `peer`, ...
    pub fn field(&self, name: &str) -> String {
        self.account()[name].as_str().unwrap_or_default().to_owned()
    }

    /// A header of the request, as the server saw it; all of that name, joined.
    pub fn seen(&self, name: &str) -> Option<String> {
        let account = self.account();
        let headers = account["headers"].as_array()?;
        let values: Vec<&str> =
            headers.iter().filter(|h| h[0] == name).filter_map(|h| h[1].as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The client's identity, as the server saw it.
    pub fn client_identity(&self) -> Option<String> {
        let certificate = self.seen("x-forwarded-client-cert")?;
        certificate.split(';').find_map(|part| part.strip_prefix("URI=")).map(str::to_owned)
    }

    fn account(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

fn fields(head: &str) -> Vec<(String, String)> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// The counts of `echo load --json` or `echo tcp-client --json`.
pub struct Load(Value);

impl std::fmt::Debug for Load {
    /// Without the changes, which may be thousands.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut counts = self.0.clone();
        counts.as_object_mut().map(|counts| counts.remove("changes"));
        write!(f, "{counts}")
    }
}

impl Load {
    /// Of the program's output.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(serde_json::from_str(text).with_context(|| format!("no report: {text:?}"))?))
    }

    /// Requests that were answered, with whatever status.
    pub fn answered(&self) -> u64 {
        self.0["answered"].as_u64().unwrap_or_default()
    }

    /// Requests without an answer, or with one of 400 or more.
    pub fn failed(&self) -> u64 {
        self.0["failed"].as_u64().unwrap_or_default()
    }

    /// How many answers this server gave.
    pub fn by(&self, server: &str) -> u64 {
        self.0["servers"][server].as_u64().unwrap_or_default()
    }

    /// How many answers had this status.
    pub fn with_status(&self, status: u16) -> u64 {
        self.0["statuses"][status.to_string()].as_u64().unwrap_or_default()
    }

    /// Milliseconds: `p50`, `p99` or `most`.
    pub fn milliseconds(&self, which: &str) -> f64 {
        self.0["milliseconds"][which].as_f64().unwrap_or_default()
    }

    /// When another server than before began to answer, and which: Unix milliseconds, name.
    pub fn changes(&self) -> Vec<(u64, String)> {
        let changes = self.0["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        changes.iter().filter_map(|c| Some((c["at"].as_u64()?, c["server"].as_str()?.to_owned()))).collect()
    }

    /// Failures by kind.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        serde_json::from_value(self.0["errors"].clone()).unwrap_or_default()
    }

    /// Nothing failed, and so many were answered; returns itself for more.
    #[track_caller]
    pub fn all_well(self, answered: u64) -> Self {
        assert_eq!((self.failed(), self.answered()), (0, answered), "failures and answers: {self:?}");
        self
    }

    /// A server's part of all answers is within `tolerance` of `percent`.
    #[track_caller]
    pub fn share(&self, server: &str, percent: u64, tolerance: u64) {
        let part = self.by(server) * 100;
        let (low, high) = (percent.saturating_sub(tolerance), percent + tolerance);
        let fair = part >= low * self.answered() && part <= high * self.answered();
        assert!(fair, "{server} should have {percent} % (±{tolerance}): {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_response_counts_and_interim_ones_do_not() -> Result<()> {
        let reply = Reply::parse("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Server: a\r\n\r\nbody")?;
        assert_eq!((reply.status, reply.server().as_str(), reply.body.as_str()), (200, "a", "body"));
        Ok(())
    }

    #[test]
    fn the_clients_identity_is_what_the_server_was_told() -> Result<()> {
        let body = r#"{"headers":[["x-forwarded-client-cert","By=spiffe://b;URI=spiffe://a"]]}"#;
        let reply = Reply::parse(&format!("HTTP/1.1 200 OK\r\n\r\n{body}"))?;
        assert_eq!(reply.client_identity().as_deref(), Some("spiffe://a"));
        Ok(())
    }

    #[test]
    #[should_panic(expected = "should have 90 %")]
    fn an_unfair_share_is_seen() {
        let load = Load::parse(r#"{"answered":100,"servers":{"a":50,"b":50}}"#).expect("JSON");
        load.share("a", 90, 5);
    }
}
