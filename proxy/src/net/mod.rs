//! Sockets: listening, original destinations, dialling, resets.

pub mod batch;
pub mod frames;
pub mod listen;
pub mod peek;
pub mod relay;
pub mod socket;
pub mod spare;
pub mod stream;
pub mod turn;
