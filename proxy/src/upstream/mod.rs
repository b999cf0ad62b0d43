//! The endpoints that are dialled, their balancing, and the connections that are kept to them.
//!
//! An endpoint is one address under one expected identity. It exists once, whoever routes to it, so that its
//! connections and its balancing state are shared; when the identity changes it is another endpoint.

mod again;
mod backend;
mod connect;
mod endpoint;
mod h1_pool;
mod h2_exchange;
mod h2_pool;
mod load;
mod registry;
mod send;
mod tunnel_pool;

pub use again::SendError;
pub use backend::Backend;
pub use connect::Upstream;
pub use endpoint::{Endpoint, Transport, now};
pub use load::Load;
pub use registry::Registry;
