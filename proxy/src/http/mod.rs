//! HTTP as both directions of the proxy share it.

mod date;
pub mod duplex;
mod error;
pub mod form;
pub mod h2_body;
pub mod heartbeat;
mod hosts;
pub mod mesh_headers;
pub mod requests;
pub mod respond;
pub mod serve;
mod serve_h1;
mod serve_h2;
pub mod upgrade;

pub use error::Error;

/// The versions of HTTP that a client or server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}
