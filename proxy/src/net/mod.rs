//! Sockets: listening, original destinations, dialling, resets.

pub mod listen;
pub mod peek;
pub mod relay;
pub mod socket;
pub mod stream;
