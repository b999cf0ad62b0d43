//! HTTP as both directions of the proxy share it.

pub mod form;
pub mod respond;
pub mod serve;
pub mod upgrade;
