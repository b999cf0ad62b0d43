//! Who writes: the holder of a Lease (coordination.k8s.io), as client-go elects it.
//!
//! Written here, since it is small and the crates that do it bring more than it: `turn` decides, `Election` acts. Clocks of
//! different nodes are never compared: a holder is gone when its Lease has not changed for the Lease's time on our clock.
//! Leadership is a term, which ends by the clock: it needs nobody who gets to see that it does.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The Lease's name.
const NAME: &str = "heddle-injector";
/// After this time without a sign of life another one may lead.
const LIFE: Duration = Duration::from_secs(15);
/// A leader that could not renew stops this long after its last renewal began: what it sent last has arrived, or been given
/// up, well before another one may begin.
const TRUST: Duration = Duration::from_secs(8);
/// Between two renewals.
const RENEW: Duration = Duration::from_secs(2);
/// Between two looks at another's Lease.
const LOOK: Duration = Duration::from_secs(1);
/// The same where the leader changes, or is about to.
const SOON: Duration = Duration::from_millis(500);
/// A look that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// Until when we lead, if we do.
pub type Term = Option<Instant>;

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

/// How long it is until the next look, after one that found `turn`, or failed. A Lease that ends is looked at when it does.
fn pause(turn: Option<Turn>, unchanged: Duration) -> Duration {
    match turn {
        Some(Turn::Renew) => RENEW,
        Some(Turn::Take) => SOON,
        Some(Turn::Wait) => LOOK.min(LIFE.saturating_sub(unchanged)).max(SOON),
        None => LOOK,
    }
}

/// Our part in the election.
pub struct Election {
    api: Api<Lease>,
    me: String,
    term: watch::Sender<Term>,
    /// The Lease's version that we saw last, and since when.
    seen: (String, Instant),
    renewed: Option<Instant>,
}

impl Election {
    /// Tells `term` until when `me` leads in `namespace`.
    pub fn new(client: &Client, namespace: &str, me: &str, term: watch::Sender<Term>) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, me: me.to_owned(), term, seen: (String::new(), Instant::now()), renewed: None }
    }

    /// Takes part until `end` says so; then the Lease is given back.
    pub async fn run(mut self, end: &mut watch::Receiver<bool>) {
        loop {
            let turn = match timeout(PATIENCE, self.look()).await {
                Ok(Ok(turn)) => Some(turn),
                Ok(Err(error)) => {
                    tracing::warn!("the Lease cannot be kept: {error}");
                    None
                }
                Err(_) => {
                    tracing::warn!("the Lease cannot be kept: the API server takes too long");
                    None
                }
            };
            self.tell();
            tokio::select! {
                () = sleep(pause(turn, self.seen.1.elapsed())) => {}
                () = ended(end) => return self.give_back().await,
            }
        }
    }

    async fn look(&mut self) -> Result<Turn, Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            self.write(Lease { metadata, spec: None }, Turn::Take).await?;
            return Ok(Turn::Take);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.0 != version {
            self.seen = (version, Instant::now());
        }
        let turn = turn(holder(&lease), &self.me, self.seen.1.elapsed());
        match turn {
            Turn::Wait => self.renewed = None,
            Turn::Take | Turn::Renew => self.write(lease, turn).await?,
        }
        Ok(turn)
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

    fn tell(&self) {
        let term = self.renewed.map(|renewed| renewed + TRUST);
        self.term.send_if_modified(|before| std::mem::replace(before, term) != term);
    }

    /// Leaves the Lease to the next. The term is over first: by the time that the Lease has been read again, whoever wrote
    /// for us has stopped.
    async fn give_back(mut self) {
        self.renewed = None;
        self.tell();
        let give = async {
            let lease = self.api.get_opt(NAME).await?;
            if let Some(lease) = lease.and_then(|lease| given_back(lease, &self.me, Timestamp::now())) {
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, Error>(())
        };
        let _ = timeout(PATIENCE, give).await;
    }
}

/// Returns when a term has begun.
pub async fn begun(term: &mut watch::Receiver<Term>) {
    let leads = |until: &Term| until.is_some_and(|until| Instant::now() < until);
    if term.wait_for(leads).await.is_err() {
        std::future::pending::<()>().await; // the election is over
    }
}

/// Returns when the term is over: at its end, if it has not become a longer one by then.
pub async fn over(term: &mut watch::Receiver<Term>) {
    loop {
        let Some(until) = *term.borrow_and_update() else { return };
        tokio::select! {
            () = sleep_until(until) => return,
            changed = term.changed() => {
                if changed.is_err() {
                    return; // the election is over
                }
            }
        }
    }
}

async fn ended(end: &mut watch::Receiver<bool>) {
    let _ = end.wait_for(|end| *end).await;
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// The Lease with nobody as its holder, if its holder is `me`.
fn given_back(mut lease: Lease, me: &str, now: Timestamp) -> Option<Lease> {
    let before = lease.spec.take().filter(|held| held.holder_identity.as_deref() == Some(me))?;
    lease.spec = Some(spec(before, "", false, now));
    Some(lease)
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

    #[test]
    fn a_leader_has_stopped_well_before_another_one_may_begin() {
        let left = LIFE - TRUST - PATIENCE;
        assert!(left >= Duration::from_secs(3), "{left:?}");
    }

    #[track_caller]
    fn check_pause(turn: Option<Turn>, unchanged: u64, expected: u64) {
        assert_eq!(pause(turn, Duration::from_millis(unchanged)), Duration::from_millis(expected));
    }

    #[test]
    fn a_lease_that_ends_is_looked_at_when_it_does() {
        check_pause(Some(Turn::Wait), 0, 1_000);
        check_pause(Some(Turn::Wait), 14_300, 700);
        check_pause(Some(Turn::Wait), 14_900, 500);
        check_pause(Some(Turn::Wait), 16_000, 500);
    }

    #[test]
    fn a_leader_asks_less_often_than_those_who_wait() {
        check_pause(Some(Turn::Renew), 0, 2_000);
        check_pause(Some(Turn::Take), 0, 500);
        check_pause(None, 0, 1_000);
    }

    #[test]
    fn only_our_own_lease_is_given_back() {
        let held = |me: &str| {
            let spec = spec(LeaseSpec::default(), me, true, Timestamp::UNIX_EPOCH);
            Lease { spec: Some(spec), ..Lease::default() }
        };
        let given = given_back(held("me"), "me", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(holder(&given), Some(""));
        assert!(given_back(held("other"), "me", Timestamp::UNIX_EPOCH).is_none());
        assert!(given_back(Lease::default(), "me", Timestamp::UNIX_EPOCH).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_by_itself_unless_it_becomes_a_longer_one() {
        let begun = Instant::now();
        let (terms, mut term) = watch::channel(Some(begun + TRUST));
        let renew = async {
            sleep(RENEW).await;
            terms.send_replace(Some(begun + RENEW + TRUST));
        };
        tokio::join!(renew, over(&mut term));
        assert!(begun.elapsed() >= RENEW + TRUST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_that_is_given_up_is_over_at_once() {
        let begun = Instant::now();
        let (terms, mut term) = watch::channel(Some(begun + TRUST));
        terms.send_replace(None);
        over(&mut term).await;
        assert!(begun.elapsed() < SOON);
    }
}
