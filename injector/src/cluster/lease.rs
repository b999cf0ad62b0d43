//! Who writes: the holder of a Lease (coordination.k8s.io), as client-go elects it.
//!
//! Written here, since it is small and the crates that do it bring more than it: `turn` decides, `Election` acts. Clocks of
//! different nodes are never compared: a holder is gone when its Lease has not changed for the Lease's time on our clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Error};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The Lease's name.
const NAME: &str = "heddle-injector";
/// After this time without a sign of life another one may lead.
const LIFE: Duration = Duration::from_secs(15);
/// A leader that could not renew stops this long after its last renewal, well before another may begin.
const TRUST: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// A look that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is to be done with the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Make it ours.
    Take,
    /// It is ours: say that we live.
    Renew,
    /// It is another's.
    Wait,
}

/// What `me` does with the lease that `holder` has and that has not changed for `unchanged`.
fn turn(holder: Option<&str>, me: &str, unchanged: Duration) -> Turn {
    match holder {
        Some(holder) if holder == me => Turn::Renew,
        None | Some("") => Turn::Take,
        Some(_) if unchanged >= LIFE => Turn::Take,
        Some(_) => Turn::Wait,
    }
}

/// Our part in the election.
pub struct Election {
    api: Api<Lease>,
    me: String,
    leads: watch::Sender<bool>,
    /// The Lease's version that we saw last, and since when.
    seen: (String, Instant),
    renewed: Option<Instant>,
}

impl Election {
    /// Tells `leads` whether `me` leads in `namespace`.
    pub fn new(client: &Client, namespace: &str, me: &str, leads: watch::Sender<bool>) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, me: me.to_owned(), leads, seen: (String::new(), Instant::now()), renewed: None }
    }

    /// Takes part until `end` says so; then the Lease is given back.
    pub async fn run(mut self, end: &mut watch::Receiver<bool>) {
        loop {
            match timeout(PATIENCE, self.look()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("the Lease cannot be kept: {error}"),
                Err(_) => tracing::warn!("the Lease cannot be kept: the API server takes too long"),
            }
            let leads = self.renewed.is_some_and(|renewed| renewed.elapsed() < TRUST);
            self.leads.send_if_modified(|before| std::mem::replace(before, leads) != leads);
            tokio::select! {
                () = sleep(LOOK) => {}
                () = ended(end) => return self.give_back().await,
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            return self.write(Lease { metadata, spec: None }, Turn::Take).await;
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.0 != version {
            self.seen = (version, Instant::now());
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let turn = turn(holder, &self.me, self.seen.1.elapsed());
        if turn == Turn::Wait {
            self.renewed = None;
            return Ok(());
        }
        self.write(lease, turn).await
    }

    /// Writes with the version that was read: of two who try at once, one fails.
    async fn write(&mut self, mut lease: Lease, turn: Turn) -> Result<(), Error> {
        let begun = Instant::now();
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(spec(before, &self.me, turn == Turn::Take, Timestamp::now()));
        let parameters = PostParams::default();
        let written = match lease.metadata.resource_version {
            None => self.api.create(&parameters, &lease).await,
            Some(_) => self.api.replace(NAME, &parameters, &lease).await,
        };
        match written {
            Ok(_) => self.renewed = Some(begun),
            Err(Error::Api(status)) if status.code == 409 => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn give_back(mut self) {
        if self.renewed.is_none() {
            return;
        }
        self.me = String::new();
        let give = async {
            if let Some(lease) = self.api.get_opt(NAME).await? {
                self.write(lease, Turn::Renew).await?;
            }
            Ok::<_, Error>(())
        };
        let _ = timeout(PATIENCE, give).await;
    }
}

async fn ended(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

fn spec(before: LeaseSpec, me: &str, takes: bool, now: Timestamp) -> LeaseSpec {
    let transitions = before.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
        acquire_time: if takes { Some(MicroTime(now)) } else { before.acquire_time },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(transitions + i32::from(takes)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(holder: Option<&str>, unchanged: u64, expected: Turn) {
        assert_eq!(turn(holder, "me", Duration::from_secs(unchanged)), expected);
    }

    #[test]
    fn a_lease_of_nobody_is_taken_at_once() {
        check(None, 0, Turn::Take);
        check(Some(""), 0, Turn::Take);
    }

    #[test]
    fn anothers_lease_is_left_to_it_while_it_lives() {
        check(Some("other"), 14, Turn::Wait);
        check(Some("other"), 15, Turn::Take);
    }

    #[test]
    fn our_own_lease_is_renewed() {
        check(Some("me"), 100, Turn::Renew);
    }

    #[test]
    fn only_who_takes_it_counts_a_transition() {
        let now = Timestamp::UNIX_EPOCH;
        let taken = spec(LeaseSpec::default(), "me", true, now);
        let renewed = spec(taken.clone(), "me", false, Timestamp::MAX);
        assert_eq!((taken.lease_transitions, renewed.lease_transitions), (Some(1), Some(1)));
        assert_eq!(renewed.acquire_time, Some(MicroTime(now)));
        assert_eq!(renewed.renew_time, Some(MicroTime(Timestamp::MAX)));
    }
}
