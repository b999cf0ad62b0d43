//! Whom a client asks, for how long, and with which words.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};

/// A server's address, resolved once.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where connections go.
    pub address: SocketAddr,
    /// As it was given: what a request names as its host unless it is told another.
    pub name: String,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut found = text.to_socket_addrs().with_context(|| format!("{text:?} is not ADDR:PORT"))?;
        let address = found.next().with_context(|| format!("{text} has no address"))?;
        Ok(Self { address, name: text.to_owned() })
    }
}

/// What every HTTP client is told.
#[derive(clap::Args)]
pub struct Http {
    /// Where to: ADDR:PORT
    #[arg(long)]
    pub to: Target,
    /// The host that requests name [default: as in --to]
    #[arg(long)]
    host: Option<String>,
}

impl Http {
    /// The host that requests name.
    pub fn host(&self) -> &str {
        self.host.as_deref().unwrap_or(&self.to.name)
    }

    /// An HTTP/1.1 request as it goes over the wire, the same each time.
    pub fn request(&self) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.host()).into_bytes()
    }
}

/// A time in seconds, such as `10` or `0.5`.
pub fn seconds(text: &str) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(text.parse()?)?;
    ensure!(time > Duration::ZERO, "it must be more than 0");
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_target_unless_told_another_host() {
        let to: Target = "127.0.0.1:8080".parse().unwrap();
        let plain = Http { to: to.clone(), host: None };
        assert_eq!(plain.request(), b"GET / HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n\r\n");
        let named = Http { to, host: Some("server.heddle".to_owned()) };
        assert_eq!(named.request(), b"GET / HTTP/1.1\r\nhost: server.heddle\r\n\r\n");
    }

    #[test]
    fn a_time_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        for wrong in ["0", "-1", "nan", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
