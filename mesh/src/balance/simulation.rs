//! Thousands of virtual steps: clients, servers and a clock without a wire, balanced by the real thing.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use proptest::prelude::*;

use super::{By, Dice, Failed, Outcome, Standing, State, choose};

/// How a server answers now.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answer(Duration),
    Fail(Failed),
}

struct World {
    now: Duration,
    dice: Dice,
    servers: Vec<(State, Does)>,
    /// What ends when, where.
    running: BinaryHeap<Reverse<(Duration, usize)>>,
    /// Requests that each server got.
    got: Vec<u32>,
    failed: u32,
}

const FAST: Does = Does::Answer(ms(10));

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    fn new(servers: &[Does]) -> Self {
        let servers: Vec<_> = servers.iter().map(|does| (State::default(), *does)).collect();
        let got = vec![0; servers.len()];
        Self { now: ms(1_000_000), dice: Dice(1), servers, running: BinaryHeap::new(), got, failed: 0 }
    }

    /// So many requests, one every `every`; what each server got of them.
    fn requests(&mut self, number: u32, every: Duration) -> Vec<u32> {
        self.got.fill(0);
        for _ in 0..number {
            self.now += every;
            self.end_until_now();
            self.request();
        }
        self.got.clone()
    }

    fn request(&mut self) {
        let at = self.choose(By::Request);
        let random = self.dice.roll();
        let (state, does) = &mut self.servers[at];
        let ticket = state.begin(self.now);
        self.got[at] += 1;
        // The outcome is known at once, which a clock without surprises may say; the load lasts as long as the answer.
        match *does {
            Does::Answer(took) => {
                state.report(ticket, Outcome::Answered(took), self.now + took, random);
                self.running.push(Reverse((self.now + took, at)));
            }
            Does::Fail(why) => {
                state.report(ticket, Outcome::Failed(why), self.now, random);
                state.end();
                self.failed += 1;
            }
        }
    }

    fn choose(&mut self, by: By) -> usize {
        let (servers, now) = (&self.servers, self.now);
        choose(servers.len(), by, self.dice.roll(), |i| Some(servers[i].0.view(now))).expect("some server")
    }

    fn end_until_now(&mut self) {
        while let Some(Reverse((end, at))) = self.running.peek().copied()
            && end <= self.now
        {
            self.running.pop();
            self.servers[at].0.end();
        }
    }

    fn in_rotation(&self) -> usize {
        let is_in = |state: &State| matches!(state.view(self.now).standing, Standing::In(_));
        self.servers.iter().filter(|(state, _)| is_in(state)).count()
    }
}

#[test]
fn a_slow_one_gets_clearly_less_and_keeps_no_request_waiting_that_another_could_take() {
    let mut servers = [FAST; 10];
    servers[3] = Does::Answer(ms(100));
    let mut world = World::new(&servers);
    let got = world.requests(20_000, ms(1));
    assert!(got[3] > 0 && got[3] < 400, "a tenth would be 2,000: {got:?}");
    let others = got.iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, got)| *got);
    assert!(others.clone().all(|got| (1_700..2_700).contains(&got)), "{got:?}");
}

#[test]
fn one_that_was_slow_gets_its_part_back() {
    let mut world = World::new(&[FAST, FAST, Does::Answer(ms(1000))]);
    assert!(world.requests(5_000, ms(5))[2] < 250);
    world.servers[2].1 = FAST;
    world.requests(20_000, ms(5));
    let got = world.requests(3_000, ms(5));
    assert!(got[2] > 700, "{got:?}");
}

#[test]
fn a_client_of_one_request_at_a_time_uses_all() {
    let servers: Vec<_> = (0..5).map(|i| Does::Answer(Duration::from_micros(1000 + i * 200))).collect();
    let got = World::new(&servers).requests(1_000, ms(20));
    assert!(got.iter().all(|got| (140..260).contains(got)), "{got:?}");
}

#[test]
fn a_failing_one_is_out_soon_and_gets_nothing_but_probes() {
    for (why, soon) in [(Failed::Unreached, 2), (Failed::Answer, 5)] {
        let mut servers = [FAST; 5];
        servers[0] = Does::Fail(why);
        let mut world = World::new(&servers);
        assert_eq!(world.requests(200, ms(4))[0], soon, "{why:?}");
        // Probes after 1, 2, 4, 8, 16, 32 and 60 s, or up to a half later: of 10 minutes that is 7 to 15.
        let probes = world.requests(60_000, ms(10))[0];
        assert!((7..=15).contains(&probes), "{probes} probes");
    }
}

#[test]
fn a_returning_one_gets_its_part_step_by_step() {
    let mut world = World::new(&[FAST, FAST, Does::Fail(Failed::Answer)]);
    world.requests(100, ms(1));
    world.servers[2].1 = FAST;
    while world.in_rotation() < 3 {
        world.requests(1, ms(2));
    }
    let first = world.requests(500, ms(2))[2];
    world.requests(4_500, ms(2));
    let last = world.requests(500, ms(2))[2];
    assert!((5..80).contains(&first) && last > 120, "{first} in the first second, {last} in the last");
}

#[test]
fn where_all_fail_all_are_used_and_the_first_success_ends_it() {
    let mut world = World::new(&[Does::Fail(Failed::Answer); 4]);
    let got = world.requests(4_000, ms(1));
    assert!(got.iter().all(|got| *got > 500), "{got:?}");
    world.servers[1].1 = FAST;
    world.requests(50, ms(1));
    world.failed = 0;
    world.requests(900, ms(1));
    assert!(world.failed <= 3, "one probe for each of the others at most: {}", world.failed);
}

#[test]
fn a_new_one_among_old_ones_is_not_flooded() {
    let mut world = World::new(&[FAST; 4]);
    world.requests(2_000, ms(1));
    let mut new = State::default();
    new.warm_up(world.now);
    world.servers.push((new, FAST));
    world.got.push(0);
    let first = world.requests(500, ms(1))[4];
    world.requests(9_500, ms(1));
    let then = world.requests(1_000, ms(1))[4];
    assert!((2..40).contains(&first), "{first} of the first 500");
    assert!(then > 130, "{then} of 1,000 when it is warm");
}

/// Opens a connection; where it went.
fn open(world: &mut World) -> usize {
    let (at, now) = (world.choose(By::Connection), world.now);
    let state = &mut world.servers[at].0;
    let ticket = state.begin(now);
    state.report(ticket, Outcome::Taken, now, 0);
    at
}

fn loads(world: &World) -> impl Iterator<Item = u32> {
    world.servers.iter().map(|(state, _)| state.running())
}

#[test]
fn of_a_few_the_one_with_the_fewest_connections_is_found() {
    let mut world = World::new(&[FAST; 12]);
    let mut connections: Vec<usize> = Vec::new();
    for step in 0..5_000 {
        // Two open, then any one closes.
        if step % 3 == 2 {
            let closed = connections.swap_remove(world.dice.below(connections.len()));
            world.servers[closed].0.end();
            continue;
        }
        let least = loads(&world).min();
        let at = open(&mut world);
        assert_eq!(Some(world.servers[at].0.running() - 1), least, "step {step}");
        connections.push(at);
    }
}

#[test]
fn of_many_none_carries_many_more_connections_than_an_exact_count_would_give_it() {
    let mut world = World::new(&[FAST; 100]);
    for _ in 0..3_000 {
        open(&mut world);
    }
    assert!(loads(&world).all(|load| (27..=32).contains(&load)), "{:?}", loads(&world).collect::<Vec<_>>());
}

proptest! {
    /// A model that knows only the rule: a server in rotation is used whenever there is one.
    #[test]
    fn one_set_aside_is_used_for_its_probe_or_where_there_is_no_other(
        steps in prop::collection::vec((0usize..6, any::<bool>(), 0u64..3000), 1..400),
    ) {
        let mut world = World::new(&[FAST; 6]);
        for (server, fails, pause) in steps {
            world.servers[server].1 = if fails { Does::Fail(Failed::Unreached) } else { FAST };
            world.now += ms(pause);
            world.end_until_now();
            let at = world.choose(By::Request);
            let standing = world.servers[at].0.view(world.now).standing;
            prop_assert!(standing != Standing::Aside || world.in_rotation() == 0);
            world.request();
        }
    }

    #[test]
    fn what_runs_is_counted_exactly(ends in prop::collection::vec(0u8..6, 1..200)) {
        let mut state = State::default();
        let mut model = 0u32;
        for (i, end) in ends.into_iter().enumerate() {
            let now = ms(i as u64 * 500);
            let ticket = state.begin(now);
            let outcome = match end {
                0 => Outcome::Answered(ms(3)),
                1 => Outcome::Failed(Failed::Unreached),
                2 => Outcome::Failed(Failed::Answer),
                3 => Outcome::Left(ms(7)),
                4 => Outcome::Nothing,
                _ => Outcome::Taken,
            };
            state.report(ticket, outcome, now, 5);
            if end % 2 == 0 { state.end() } else { model += 1 }
            prop_assert_eq!(state.running(), model);
        }
    }
}
