use super::*;
use Failed::{Answer, Unreached};
use proptest::prelude::*;

const RANDOM: u64 = 7;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One failure after another, all at `now`; the place then.
fn after(health: &mut Health, failures: &[Failed], now: Duration) -> Place {
    for why in failures {
        let of = health.begin(now);
        health.fail(of, *why, now, RANDOM);
    }
    health.place(now)
}

#[track_caller]
fn check(failures: &[Failed], expected: Place) {
    assert_eq!(after(&mut Health::default(), failures, s(0)), expected, "{failures:?}");
}

fn pause(change: Option<Change>, now: Duration) -> Duration {
    match change {
        Some(Change::SetAside { until, .. }) => until - now,
        Some(Change::Back) | None => Duration::ZERO,
    }
}

/// The probe that is due now fails; how long the endpoint is set aside for it.
fn fail_probe(health: &mut Health, now: Duration) -> Duration {
    assert_eq!(health.place(now), Place::Due);
    let probe = health.begin(now);
    pause(health.fail(probe, Answer, now, RANDOM), now)
}

#[test]
fn failures_in_a_row_set_aside() {
    check(&[Answer; 4], Place::In);
    check(&[Answer; 5], Place::Aside);
    check(&[Unreached; 1], Place::In);
    check(&[Unreached; 2], Place::Aside);
    check(&[Unreached, Answer, Unreached, Answer], Place::In);
    check(&[Unreached, Answer, Unreached, Answer, Answer], Place::Aside);
}

#[test]
fn a_success_between_them_begins_the_count_anew() {
    let mut health = Health::default();
    for _ in 0..100 {
        assert_eq!(after(&mut health, &[Answer; 4], s(0)), Place::In);
        let of = health.begin(s(0));
        assert_eq!(health.succeed(of, s(0)), None);
    }
}

#[test]
fn one_request_alone_is_the_probe() {
    let mut health = Health::default();
    after(&mut health, &[Answer; 5], s(0));
    let probe = health.begin(s(10));
    assert_eq!(health.place(s(10)), Place::Probed);
    let other = health.begin(s(10));
    assert_eq!(health.fail(other, Answer, s(11), RANDOM), None);
    assert_eq!(health.place(s(11)), Place::Probed);
    assert_eq!(health.succeed(probe, s(11)), Some(Change::Back));
    assert_eq!(health.place(s(11)), Place::In);
}

#[test]
fn a_probe_that_says_nothing_is_not_waited_for_for_ever() {
    let mut health = Health::default();
    after(&mut health, &[Answer; 5], s(0));
    let long_poll = health.begin(s(10));
    assert_eq!(health.place(s(19)), Place::Probed);
    assert_eq!(health.place(s(20)), Place::Due);
    let probe = health.begin(s(20));
    assert_eq!(health.succeed(probe, s(21)), Some(Change::Back));
    assert_eq!(health.fail(long_poll, Answer, s(30), RANDOM), None);
}

#[test]
fn an_abandoned_probe_is_due_again() {
    let mut health = Health::default();
    after(&mut health, &[Answer; 5], s(0));
    let probe = health.begin(s(10));
    health.abandon(probe);
    assert_eq!(health.place(s(10)), Place::Due);
}

#[test]
fn each_failed_probe_doubles_the_pause_up_to_a_bound() {
    let mut health = Health::default();
    after(&mut health, &[Answer; 5], s(0));
    let mut now = s(0);
    let pauses: Vec<_> = (0..9)
        .map(|_| {
            now += s(100);
            fail_probe(&mut health, now).as_secs_f64()
        })
        .collect();
    for (pause, least) in pauses.iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]) {
        assert!((least..=least * 1.5).contains(pause), "{pause} for {least}");
    }
}

#[test]
fn who_fails_again_soon_after_its_return_goes_for_longer() {
    let (mut soon, mut late) = (Health::default(), Health::default());
    for (health, at) in [(&mut soon, s(12)), (&mut late, s(30))] {
        after(health, &[Answer; 5], s(0));
        let probe = health.begin(s(10));
        health.succeed(probe, s(10));
        after(health, &[Answer; 5], at);
    }
    assert_eq!(soon.place(s(12) + s(2)), Place::Aside);
    assert_eq!(late.place(s(30) + s(2)), Place::Due);
}

#[test]
fn what_began_before_a_change_says_nothing_after_it() {
    let mut health = Health::default();
    let old = health.begin(s(0));
    after(&mut health, &[Answer; 5], s(0));
    assert_eq!(health.succeed(old, s(0)), None);
    assert_eq!(health.place(s(0)), Place::Aside);
    let probe = health.begin(s(10));
    health.succeed(probe, s(10));
    for _ in 0..5 {
        assert_eq!(health.fail(old, Answer, s(11), RANDOM), None);
    }
    assert_eq!(health.place(s(11)), Place::In);
}

#[test]
fn a_success_where_there_was_no_other_brings_back_at_once() {
    let mut health = Health::default();
    after(&mut health, &[Answer; 5], s(0));
    let of = health.begin(s(0));
    assert_eq!(health.succeed(of, s(0)), Some(Change::Back));
}

proptest! {
    #[test]
    fn no_time_is_too_late_to_be_set_aside(now in 0u64.., random: u64, times in 0u32..) {
        let now = Duration::from_secs(now);
        let mut health = Health { times, back: now, ..Health::default() };
        let change = health.set_aside(Answer, now, random);
        prop_assert!(pause(Some(change), now) <= ASIDE_MAX * 3 / 2);
    }
}
