//! The server: HTTP/1.1 and HTTP/2 on one port, and plain TCP on two others.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::serve_tcp;

/// The longest body that a caller may ask for, bytes.
const MOST_SIZE: usize = 64 << 20;
/// Rest when no connection can be accepted, for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(10);

/// What the server is told.
#[derive(clap::Args)]
pub struct Options {
    /// Port of HTTP/1.1 and of HTTP/2 with prior knowledge
    #[arg(long, default_value_t = 8080)]
    http: u16,
    /// Port of the echo: sends back each message of 100 bytes
    #[arg(long, default_value_t = 9000)]
    echo: u16,
    /// Port of the sink: reads to the end and answers how many bytes that were, as 8 bytes, the highest first
    #[arg(long, default_value_t = 9001)]
    bulk: u16,
    /// Length of an HTTP answer's body unless the request says ?size=N, bytes
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

/// Serves until it is killed.
pub async fn run(options: &Options) -> Result<()> {
    let (http, echo, bulk) =
        (listen(options.http).await?, listen(options.echo).await?, listen(options.bulk).await?);
    let body = Bytes::from(vec![b'x'; options.size]);
    tokio::join!(
        accept(http, |stream| drop(tokio::spawn(serve_http(stream, body.clone())))),
        accept(echo, |stream| drop(tokio::spawn(serve_tcp::echo(stream)))),
        accept(bulk, |stream| drop(tokio::spawn(serve_tcp::count(stream)))),
    );
    Ok(())
}

/// On all addresses; Linux hands IPv4 to a listener of IPv6.
async fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
    listener.with_context(|| format!("cannot listen on port {port}"))
}

async fn accept(listener: TcpListener, serve: impl Fn(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // It can only fail on a connection that is already gone, which the next read tells.
                let _ = stream.set_nodelay(true);
                serve(stream);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A connection that breaks is the client's affair.
async fn serve_http(stream: TcpStream, body: Bytes) {
    let answer = service_fn(move |request| answer(request, body.clone()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(request: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = size(request.uri().query());
    if request.method() != Method::GET && drain(request.into_body()).await.is_err() {
        return Ok(refusal());
    }
    Ok(match asked {
        Ok(None) => Response::new(Full::new(body)),
        Ok(Some(size)) => Response::new(Full::from(vec![b'x'; size])),
        Err(()) => refusal(),
    })
}

fn refusal() -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

/// Reads a body to its end and forgets it.
async fn drain(mut body: Incoming) -> hyper::Result<()> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// The length that a query asks for, if it does.
fn size(query: Option<&str>) -> Result<Option<usize>, ()> {
    let mut fields = query.unwrap_or_default().split('&');
    let Some(asked) = fields.find_map(|field| field.strip_prefix("size=")) else {
        return Ok(None);
    };
    asked.parse().ok().filter(|size| *size <= MOST_SIZE).map(Some).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_ask_for_a_size_within_bounds() {
        assert_eq!(size(None), Ok(None));
        assert_eq!(size(Some("a=b")), Ok(None));
        assert_eq!(size(Some("a=b&size=65536")), Ok(Some(65536)));
        assert_eq!(size(Some("size=99999999999")), Err(()));
        assert_eq!(size(Some("size=large")), Err(()));
    }
}
