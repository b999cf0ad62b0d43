//! What the bench's programs share: what the kernel says of processes and of the machine, and few numbers about many.

pub mod machine;
pub mod proc;
pub mod statistics;
