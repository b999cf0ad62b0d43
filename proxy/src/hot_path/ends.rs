//! Both ends of an exchange, and a relay between them that has nothing of ours.
//!
//! HTTP/1 is spoken by hand, without an allocation; HTTP/2 by hyper, whose allocations are the same for whatever
//! stands in the middle.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use crate::{
    http::HttpVersion::{self, Http1, Http2},
    net::socket::tune,
};

/// How many bytes an answer has.
const SIZE: usize = 1024;
/// The headers that most clients send.
pub const HEADERS: [(&str, &str); 6] = [
    ("user-agent", "curl/8.14.1"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br"),
    ("content-type", "application/json"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-request-id", "9f2c1c9e-7a53-4d4e-9d3b-0a4d0f6d2a11"),
];
/// Where they ask.
pub const HOST: &str = "web.shop.svc.cluster.local";
/// What they ask for.
pub const TARGET: &str = "/api/v1/orders/17?page=2";

/// A connected pair.
pub async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let there = TcpStream::connect(listener.local_addr().expect("its address"));
    let (there, here) = tokio::join!(there, listener.accept());
    let (there, here) = (there.expect("connected"), here.expect("accepted").0);
    tune(&there);
    tune(&here);
    (there, here)
}

/// Who asks.
pub enum Caller {
    /// In HTTP/1.1.
    Http1(TcpStream, Vec<u8>),
    /// In HTTP/2.
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Caller {
    /// Over a connection.
    pub async fn new(stream: TcpStream, version: HttpVersion) -> Self {
        match version {
            Http1 => {
                let headers: String =
                    HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                Self::Http1(stream, format!("GET {TARGET} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n").into())
            }
            Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
                let (sender, connection) = handshake.expect("HTTP/2");
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    /// Asks once, and reads the whole answer.
    pub async fn ask(&mut self) {
        match self {
            Self::Http1(stream, request) => {
                stream.write_all(request).await.expect("it takes requests");
                let mut answer = [0; 4096];
                let mut read = 0;
                while !is_whole(&answer[..read]) {
                    read += stream.read(&mut answer[read..]).await.expect("an answer");
                }
            }
            Self::Http2(sender) => {
                let request = Request::get(format!("http://{HOST}{TARGET}"));
                let request =
                    HEADERS.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                let request = request.body(Full::default()).expect("a request");
                let answer = sender.send_request(request).await.expect("an answer");
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.into_body().collect().await.expect("all of it").to_bytes().len(), SIZE);
            }
        }
    }
}

/// Whether all of an answer has been read.
fn is_whole(read: &[u8]) -> bool {
    assert!(read.is_empty() || read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(read));
    let head = read.windows(4).position(|end| end == b"\r\n\r\n");
    head.is_some_and(|head| read.len() == head + 4 + SIZE)
}

/// Answers every request.
pub async fn server(version: HttpVersion) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tune(&stream);
            match version {
                Http1 => drop(tokio::spawn(answer_http1(stream))),
                Http2 => drop(tokio::spawn(answer_http2(stream))),
            }
        }
    });
    addr
}

async fn answer_http1(mut stream: TcpStream) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {SIZE}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; SIZE]].concat();
    let mut request = [0; 4096];
    let mut read = 0;
    loop {
        match stream.read(&mut request[read..]).await {
            Ok(more) if more > 0 => read += more,
            _ => return,
        }
        if request[..read].ends_with(b"\r\n\r\n") {
            read = 0;
            stream.write_all(&answer).await.expect("it takes answers");
        }
    }
}

async fn answer_http2(stream: TcpStream) {
    let service = service_fn(async |_: Request<Incoming>| {
        let mut answer = Response::new(Full::new(Bytes::from_static(&[b'x'; SIZE])));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("1024"));
        Ok::<_, Infallible>(answer)
    });
    let serving = server::conn::http2::Builder::new(TokioExecutor::new());
    // Its end is the client's, and no failure.
    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
}

/// What a relay sends by.
#[derive(Clone)]
enum Sender {
    Http1(Arc<Mutex<http1::SendRequest<Incoming>>>),
    Http2(http2::SendRequest<Incoming>),
}

impl Sender {
    async fn new(addr: SocketAddr, version: HttpVersion) -> Self {
        let stream = TcpStream::connect(addr).await.expect("a server");
        tune(&stream);
        let stream = TokioIo::new(stream);
        match version {
            Http1 => {
                let (sender, connection) = http1::handshake(stream).await.expect("HTTP/1");
                tokio::spawn(connection);
                Self::Http1(Arc::new(Mutex::new(sender)))
            }
            Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
                tokio::spawn(connection);
                Self::Http2(sender)
            }
        }
    }

    async fn send(self, request: Request<Incoming>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.lock().await.send_request(request).await,
            Self::Http2(mut sender) => sender.send_request(request).await,
        }
    }
}

/// Relays what comes to a server, by hyper alone: what it allocates, any relay that is made of it does.
pub async fn bare(client: TcpStream, version: HttpVersion, server: SocketAddr, speaks: HttpVersion) {
    let sender = Sender::new(server, speaks).await;
    let service = service_fn(move |request| sender.clone().send(request));
    let client = TokioIo::new(client);
    let ended = match version {
        Http1 => server::conn::http1::Builder::new().serve_connection(client, service).await,
        Http2 => {
            server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(client, service).await
        }
    };
    ended.expect("a clean end");
}
