//! What the tests in a real Kubernetes stand on: a [`Home`], which is some namespaces of their own, and programs in its pods.
//!
//! The cluster is that of `KUBECONFIG`, or the one that `make cluster` brought up, with Heddle installed by
//! `tests/cluster/heddle.sh`. A test file is one home; [`e2e::prove!`] brings it up, runs the file's rules one after another,
//! and the home is removed at the end. As without a cluster, everything is real and nothing sleeps for a time.

mod counts;
mod home;
mod kubectl;
pub mod manifest;

pub use counts::{check_nothing_failed, counts};
pub use home::Home;
pub use kubectl::{Kubectl, script};
