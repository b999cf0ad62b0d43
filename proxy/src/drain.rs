//! The end of the proxy's life, as every connection learns of it.

use tokio::sync::watch;

/// Whoever decides when draining begins.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// What connections hold.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<bool>);

/// A drain that has not begun.
pub fn channel() -> (Drain, Draining) {
    let (begin, begins) = watch::channel(false);
    (Drain(begin), Draining(begins))
}

impl Drain {
    /// Tells every connection to end after what it is doing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Draining {
    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when draining begins; never if nobody can begin it any more.
    pub async fn begins(mut self) {
        if self.0.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
