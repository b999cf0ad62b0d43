//! One HTTP connection of a client, over whichever version it was told to speak.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// What one HTTP/2 stream may have in flight towards us: HTTP/2's own default, so that a test can tell what is
/// buffered on the way from what is buffered here.
const WINDOW: u32 = 65_535;
/// All of them together: enough that no stream waits for another here.
const CONNECTION_WINDOW: u32 = 256 * WINDOW;

/// The connection had closed before it took a request, of which no byte was sent.
#[derive(Debug)]
pub struct Unsent;

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection closed before the request was sent")
    }
}

impl std::error::Error for Unsent {}

/// A connection that takes requests without bodies.
pub enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    /// To a URL's host; HTTP/2 with prior knowledge, if at all.
    pub async fn open(url: &Uri, http2: bool) -> Result<Self> {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, url.port_u16().unwrap_or(80))).await;
        let stream = stream.context("cannot connect")?;
        stream.set_nodelay(true)?;
        if http2 { Self::http2(stream).await } else { Self::http1(stream).await }
    }

    async fn http1(stream: TcpStream) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    async fn http2(stream: TcpStream) -> Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self::Http2(sender))
    }

    /// A GET of the URL, as this version writes it.
    pub fn get(&self, url: &Uri) -> Result<Request<Empty<Bytes>>> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let host = url.authority().map_or("", |authority| authority.as_str());
        Ok(match self {
            Self::Http1(_) => Request::get(path).header(HOST, host).body(Empty::new())?,
            Self::Http2(_) => Request::get(url.clone()).body(Empty::new())?,
        })
    }

    /// Sends a request and waits for the head of its answer. The error is [`Unsent`] if the connection closed before it took
    /// the request.
    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>> {
        let sent = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| match error.take_message() {
            Some(_) => Unsent.into(),
            None => error.into_error().into(),
        })
    }

    /// Whether it can take a request; waits for the end of the one before.
    pub async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Whether it can take no more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}
