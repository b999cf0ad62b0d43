//! What a request costs in our own code: its allocations, which are held to a number, and its time, which
//! `make bench-micro` measures.

mod allocator;
mod ends;
mod pieces;
mod relay;
mod world;

pub use ends::server;
pub use relay::Relay;
pub use world::World;

/// What `make bench-micro` sets: a part of the names of what is to be measured. Without it nothing is; what would be is
/// done all the same, once or twice.
const MEASURE: &str = "HEDDLE_BENCH";

/// The part of a name, if anything is to be measured.
fn measured() -> Option<String> {
    std::env::var(MEASURE).ok()
}
