//! What the mesh means: names and identities, routes and the tables that proxies act on, the status
//! that routes earn, endpoints, balancing and protocol detection.
//!
//! Everything here is pure: no runtime, no sockets, no TLS, no Kubernetes client. Time and randomness
//! are arguments, so that every rule can be proved by a test that never waits.

pub mod balance;
pub mod bucket;
pub mod contract;
pub mod detect;
pub mod endpoints;
pub mod http;
pub mod identity;
pub mod names;
pub mod pod;
pub mod resolve;
pub mod route;
pub mod settings;

#[cfg(test)]
mod testing;
