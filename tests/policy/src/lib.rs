//! The rules that the repository keeps about itself. They are tests, so that whoever breaks one
//! hears of it at once; this library only gathers the facts.

pub mod deny;
pub mod files;
pub mod licence;
pub mod workspace;
