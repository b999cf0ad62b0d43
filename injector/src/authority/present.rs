//! The authority at this moment. It can be replaced while all goes on (a rotation), and it can vanish: then nothing is
//! signed, and never by a new root (security rule 21).

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::watch;

use super::Authority;
use crate::answer::Refusal;

/// The present authority, shared by all who sign or tell the roots.
#[derive(Debug)]
pub struct Present(watch::Sender<Held>);

/// The authority, and why it must not sign, if it must not.
#[derive(Debug, Clone)]
struct Held {
    authority: Arc<Authority>,
    gone: Option<String>,
}

impl Present {
    /// `authority`, until told otherwise.
    pub fn new(authority: Authority) -> Self {
        Self(watch::Sender::new(Held { authority: Arc::new(authority), gone: None }))
    }

    /// The authority, to sign with.
    pub fn signer(&self) -> Result<Arc<Authority>, Refusal> {
        let held = self.0.borrow();
        match &held.gone {
            None => Ok(Arc::clone(&held.authority)),
            Some(reason) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason.as_str())),
        }
    }

    /// The authority as it was last: for its roots, and for our own servers.
    pub fn last(&self) -> Arc<Authority> {
        Arc::clone(&self.0.borrow().authority)
    }

    /// Another authority from now on.
    pub fn replace(&self, authority: Authority) {
        self.0.send_replace(Held { authority: Arc::new(authority), gone: None });
    }

    /// Nothing is signed from now on.
    pub fn vanish(&self, reason: &str) {
        self.0.send_if_modified(|held| held.gone.replace(reason.to_owned()).as_deref() != Some(reason));
    }

    /// What vanished is there again, as it was.
    pub fn reappear(&self) {
        self.0.send_if_modified(|held| held.gone.take().is_some());
    }

    /// Waits for changes.
    pub fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// Told of each change.
#[derive(Debug)]
pub struct Changes(watch::Receiver<Held>);

impl Changes {
    /// Returns at the next change.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // the authority ended with the program
        }
    }
}
