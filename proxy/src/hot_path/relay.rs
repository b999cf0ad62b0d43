//! A request through the proxy, beside one through a relay of the same kind that has nothing of ours: the difference is
//! what our own code costs.

use std::{future::Future, net::SocketAddr};

use nix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;

use super::{
    allocator::made,
    ends::{Caller, bare, pair},
    measured,
};
use crate::http::HttpVersion;

/// So many requests first, until every buffer and table has its size.
const FIRST: usize = 50;
/// So many are counted, of which the one in the middle counts.
const COUNTED: usize = 101;
/// So many rounds are measured, of both relays in turns…
const ROUNDS: usize = 200;
/// …of so many requests, a few milliseconds.
const REQUESTS: u32 = 200;

/// A way of requests through the proxy.
pub struct Relay<S> {
    /// Serves a client's connection.
    pub serve: S,
    /// What the client speaks.
    pub version: HttpVersion,
    /// Where its requests go.
    pub server: SocketAddr,
    /// What is spoken there.
    pub speaks: HttpVersion,
}

impl<S, F> Relay<S>
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// Holds a request to the stated number of allocations that are not hyper's.
    pub async fn check_allocations(&self, stated: u64) {
        let all = allocations(&mut self.ours().await).await;
        let of_hyper = allocations(&mut self.hypers().await).await;
        assert_eq!(all - of_hyper, stated, "{all} allocations, of which {of_hyper} are hyper's");
    }

    /// Says how much processor time of a request is our own, if somebody wants to know.
    pub async fn measure(&self, name: &str) {
        if measured().is_none_or(|names| !name.contains(&names)) {
            return;
        }
        let mut relays = [self.ours().await, self.hypers().await];
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (caller, rounds) in relays.iter_mut().zip(&mut rounds) {
                rounds.push(round(caller).await);
            }
        }
        let [all, rest] = rounds.map(middle);
        println!("{name}: {:.2} µs of our own, {rest:.1} µs of hyper, the kernel and both ends", all - rest);
    }

    async fn ours(&self) -> Caller {
        let (client, served) = pair().await;
        tokio::spawn((self.serve)(served));
        Caller::new(client, self.version).await
    }

    async fn hypers(&self) -> Caller {
        let (client, served) = pair().await;
        tokio::spawn(bare(served, self.version, self.server, self.speaks));
        Caller::new(client, self.version).await
    }
}

async fn allocations(caller: &mut Caller) -> u64 {
    for _ in 0..FIRST {
        caller.ask().await;
    }
    let mut counted = Vec::with_capacity(COUNTED);
    for _ in 0..COUNTED {
        let before = made();
        caller.ask().await;
        counted.push(made() - before);
    }
    counted.sort_unstable();
    counted[COUNTED / 2]
}

/// What one request costs in µs, on the thread that does all of it.
async fn round(caller: &mut Caller) -> f64 {
    let before = processor_time();
    for _ in 0..REQUESTS {
        caller.ask().await;
    }
    (processor_time() - before) / f64::from(REQUESTS)
}

/// The thread's, in µs.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    std::time::Duration::from(time).as_secs_f64() * 1e6
}

fn middle(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}
