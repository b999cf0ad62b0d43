//! Choosing among the endpoints of a backend, and what an endpoint's state costs for each request.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh::balance::{By, Outcome, State, choose};
use std::hint::black_box;
use std::time::Duration;

/// A moment, and one a little later.
const NOW: Duration = Duration::from_secs(1000);
const LATER: Duration = Duration::from_millis(1_000_002);

fn choosing(criterion: &mut Criterion) {
    for (by, name) in [(By::Request, "a request"), (By::Connection, "a connection")] {
        let mut group = criterion.benchmark_group(format!("choosing for {name}"));
        for number in [2, 16, 1000] {
            let endpoints: Vec<State> = (0..number).map(served).collect();
            let look = |ix: usize| endpoints.get(ix).map(|state| state.view(LATER));
            let mut random = 0;
            group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
                bencher.iter(|| {
                    random += 1;
                    choose(endpoints.len(), by, black_box(random), look)
                });
            });
        }
    }
}

fn accounting(criterion: &mut Criterion) {
    let mut state = served(1);
    criterion.bench_function("a request's part in its endpoint's state", |bencher| {
        bencher.iter(|| {
            let ticket = state.begin(black_box(NOW));
            let answered = Outcome::Answered(black_box(Duration::from_millis(2)));
            let change = state.report(ticket, answered, black_box(LATER), 17);
            state.end();
            change
        });
    });
}

/// An endpoint that has answered once, and carries some requests.
fn served(number: u32) -> State {
    let mut state = State::default();
    let first = state.begin(NOW);
    state.report(first, Outcome::Answered(Duration::from_micros(u64::from(500 + number))), NOW, 17);
    state.end();
    for _ in 0..number % 5 {
        state.begin(NOW);
    }
    state
}

criterion_group!(benches, choosing, accounting);
criterion_main!(benches);
