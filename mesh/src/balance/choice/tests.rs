use super::*;
use proptest::prelude::*;
use std::cell::Cell;

const IN: Standing = Standing::In(1.0);

fn view(standing: Standing, running: u32, milliseconds: f64) -> View {
    View { standing, running, latency: Some(milliseconds / 1000.0) }
}

/// How often each is chosen of 10,000 times.
fn counts(by: By, views: &[View]) -> Vec<u32> {
    let mut counts = vec![0; views.len()];
    for random in 0..10_000 {
        let chosen = choose(views.len(), by, random, |i| Some(views[i])).unwrap();
        counts[chosen] += 1;
    }
    counts
}

#[track_caller]
fn check(by: By, views: &[View], expected: &[u32]) {
    let counts = counts(by, views);
    let close = counts.iter().zip(expected).all(|(count, part)| count.abs_diff(part * 100) <= 250);
    assert!(close, "{counts:?} for {expected:?} %");
}

#[test]
fn nothing_is_chosen_of_nothing_and_the_one_of_one() {
    assert_eq!(choose(0, By::Request, 7, |_| None), None);
    assert_eq!(choose(1, By::Request, 7, |_| None), None);
    assert_eq!(choose(1, By::Request, 7, |_| Some(view(Standing::Aside, 9, 1.0))), Some(0));
}

#[test]
fn equal_ones_get_equal_parts() {
    for by in [By::Request, By::Connection] {
        check(by, &[view(IN, 0, 1.0); 4], &[25; 4]);
    }
}

#[test]
fn small_differences_of_latency_are_noise() {
    check(By::Request, &[view(IN, 0, 1.0), view(IN, 0, 1.9)], &[50, 50]);
    check(By::Request, &[view(IN, 0, 1.0), view(IN, 0, 2.1)], &[100, 0]);
    check(By::Connection, &[view(IN, 0, 1.0), view(IN, 0, 1000.0)], &[50, 50]);
}

#[test]
fn latency_times_load_decides() {
    check(By::Request, &[view(IN, 0, 10.0), view(IN, 4, 1.0)], &[0, 100]);
    check(By::Request, &[view(IN, 0, 10.0), view(IN, 40, 1.0)], &[100, 0]);
    let unknown = View { latency: None, ..view(IN, 1, 0.0) };
    check(By::Request, &[unknown, view(IN, 0, 1000.0)], &[0, 100]);
    check(By::Request, &[unknown, view(IN, 2, 0.1)], &[100, 0]);
}

#[test]
fn connections_go_to_the_one_that_carries_the_fewest() {
    let views = [3, 2, 9, 2, 5].map(|running| view(IN, running, 1.0));
    check(By::Connection, &views, &[0, 50, 0, 50, 0]);
}

#[test]
fn a_cold_one_gets_its_part() {
    check(By::Request, &[view(IN, 0, 1.0), view(Standing::In(0.2), 0, 1.0)], &[90, 10]);
    check(By::Request, &[view(Standing::In(0.1), 0, 1.0); 4], &[25; 4]);
    let views = [view(IN, 5, 1.0), view(Standing::In(0.3), 0, 1.0)];
    check(By::Connection, &views, &[70, 30]);
}

#[test]
fn those_set_aside_are_used_only_where_there_is_no_other() {
    let aside = view(Standing::Aside, 0, 1.0);
    check(By::Request, &[aside, aside, view(IN, 99, 999.0)], &[0, 0, 100]);
    check(By::Request, &[aside, aside, view(Standing::In(0.1), 99, 999.0)], &[0, 0, 100]);
    check(By::Request, &[aside; 5], &[20; 5]);
}

#[test]
fn one_that_is_due_is_probed_when_it_is_met() {
    check(By::Request, &[view(Standing::Due, 9, 999.0), view(IN, 0, 1.0)], &[100, 0]);
}

#[test]
fn among_many_the_few_survivors_do_not_get_everything() {
    let part_aside = |survivors: usize| {
        let look = |i| Some(if i < survivors { view(IN, 0, 1.0) } else { view(Standing::Aside, 0, 1.0) });
        let chosen = (0..100_000).map(|random| choose(1000, By::Request, random, look).unwrap());
        chosen.filter(|i| *i >= survivors).count()
    };
    assert!(part_aside(500) < 20, "half are enough for all");
    assert!((10_000..30_000).contains(&part_aside(100)), "a tenth is not");
}

proptest! {
    #[test]
    fn only_what_may_be_used_is_and_few_are_looked_at(
        usable in prop::collection::vec(any::<bool>(), 1..200), random: u64, request: bool,
    ) {
        let looks = Cell::new(0);
        let by = if request { By::Request } else { By::Connection };
        let chosen = choose(usable.len(), by, random, |i| {
            looks.set(looks.get() + 1);
            usable[i].then(|| view(IN, 0, 1.0))
        });
        prop_assert!(looks.get() <= LOOKS);
        prop_assert!(chosen.is_none_or(|i| usable[i]));
        let few = usable.len() <= LOOKS;
        prop_assert!(!few || chosen.is_some() == usable.contains(&true));
    }
}
