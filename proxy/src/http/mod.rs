//! HTTP as both directions of the proxy share it.

pub mod form;
mod hosts;
pub mod mesh_headers;
pub mod respond;
pub mod serve;
mod serve_h1;
pub mod streams;
pub mod upgrade;

/// The versions of HTTP that a client or server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}
