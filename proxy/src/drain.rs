//! The end of the proxy's life, as every connection learns of it.
//!
//! It comes in two steps, because Kubernetes stops a sidecar only after the application: when the pod is deleted, callers
//! are asked to go elsewhere while everything is served as before; at SIGTERM the proxy leaves as soon as it is idle.

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serving,
    /// The pod is being deleted, and its application still works.
    Leaving,
    /// The application has ended.
    Ending,
}

/// Whoever decides how far it has come.
#[derive(Debug)]
pub struct Drain(watch::Sender<Stage>);

/// What connections hold.
#[derive(Debug, Clone)]
pub struct Draining(watch::Receiver<Stage>);

/// A proxy that serves.
pub fn channel() -> (Drain, Draining) {
    let (drain, draining) = watch::channel(Stage::Serving);
    (Drain(drain), Draining(draining))
}

impl Drain {
    /// Tells every connection; says whether it is news. There is no way back.
    pub fn reach(&self, stage: Stage) -> bool {
        self.0.send_if_modified(|present| {
            let news = *present < stage;
            *present = stage.max(*present);
            news
        })
    }
}

impl Draining {
    /// How far it has come.
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Returns when a stage, or one after it, is reached; never if nobody can say so any more.
    pub async fn reaches(&mut self, stage: Stage) {
        if self.0.wait_for(|present| *present >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_takes_no_step_back() {
        let (drain, mut draining) = channel();
        assert!(drain.reach(Stage::Ending));
        assert!(!drain.reach(Stage::Leaving), "a pod's deletion that is heard of late");
        draining.reaches(Stage::Leaving).await;
        assert_eq!(draining.stage(), Stage::Ending);
    }
}
