//! Reading routes and building tables of them: what a proxy does when one of its Services changes, and what all of a
//! cluster's Services would cost one.

mod world;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh::names::ServiceName;
use mesh::resolve::{View as _, service_table};
use mesh::route::ServiceTable;
use serde_json::{Value, json};
use std::hint::black_box;
use world::World;

const SERVICES: usize = 1000;
/// As many as a Service may come to have.
const RULES: [usize; 3] = [10, 100, 1000];

fn building(criterion: &mut Criterion) {
    let mut world = World::default();
    let names: Vec<_> = (0..SERVICES).map(|n| world.add(&format!("web-{n}"), (0..5).map(rule))).collect();
    criterion.bench_function("tables of 1000 Services, 5 rules each", |bencher| {
        bencher.iter_with_large_drop(|| names.iter().map(|name| table(&world, name)).collect::<Vec<_>>());
    });
}

fn growing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table of one Service, by its rules");
    for number in RULES {
        let mut world = World::default();
        let name = world.add("web", (0..number).map(rule));
        group.bench_function(BenchmarkId::from_parameter(number), |bencher| {
            bencher.iter_with_large_drop(|| table(&world, &name));
        });
    }
}

fn reading(criterion: &mut Criterion) {
    criterion.bench_function("read an HTTPRoute of 16 rules", |bencher| {
        let add = |mut world: World| {
            world.add("web", (0..16).map(rule));
            world
        };
        bencher.iter_batched(World::default, add, BatchSize::SmallInput);
    });
}

fn table(world: &World, name: &ServiceName) -> ServiceTable {
    service_table(world.service(name).expect("added"), black_box("shop"), world)
}

/// By path and method, by path, by header: one after the other.
fn rule(n: usize) -> Value {
    match n % 3 {
        0 => json!({"path": {"type": "Exact", "value": format!("/api/v1/orders/{n}")}, "method": "GET"}),
        1 => json!({"path": {"value": format!("/api/v1/{n}")}}),
        _ => json!({"headers": [{"name": "x-tenant", "value": n.to_string()}]}),
    }
}

criterion_group!(benches, building, growing, reading);
criterion_main!(benches);
