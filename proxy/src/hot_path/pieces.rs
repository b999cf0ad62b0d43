//! The pieces of a request's way that are our own: each is held to its allocations, and its time is measured if somebody
//! wants to know.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion};
use hyper::{Request, Response, Version, header::HeaderName};
use mesh::{
    balance::By,
    http::{decide, suspicious_path},
    route::{AppProtocol, BackendKey, Governing, HttpRule, RequestHead},
};

use super::{
    World,
    allocator::made,
    ends::{HEADERS, HOST, TARGET},
    measured,
};
use crate::{
    access::Access,
    body::Body,
    discovery::Table,
    http::{HttpVersion, form, respond::Manner},
    metrics::{Direction, Exchange, Failed, RequestLabels, Rule, Way},
    upstream::now,
};

/// Where the Service is.
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// Where its endpoint would be.
const SERVER: ([u8; 4], u16) = ([10, 1, 0, 2], 8080);

/// What measures, if anything is to be.
struct Pieces(Option<Criterion>);

impl Pieces {
    /// One piece. What it starts from is made anew each time, and is no part of it; neither is the end of what it returns.
    fn piece<I, O>(
        &mut self,
        name: &str,
        allocations: u64,
        mut make: impl FnMut() -> I,
        mut run: impl FnMut(&mut I) -> O,
    ) {
        // The first finds what is kept from one to the next.
        run(&mut make());
        let mut second = make();
        let before = made();
        black_box(run(&mut second));
        assert_eq!(made() - before, allocations, "allocations of {name:?}");
        if let Some(criterion) = &mut self.0 {
            let input = BatchSize::SmallInput;
            criterion.bench_function(name, |bencher| bencher.iter_batched_ref(&mut make, &mut run, input));
        }
    }
}

#[tokio::test]
async fn the_pieces_of_a_requests_way() {
    let criterion = |names| Criterion::default().measurement_time(Duration::from_secs(3)).with_filter(names);
    let mut pieces = Pieces(measured().map(criterion));
    heads(&mut pieces);
    let world = World::new();
    let service = world.service(SERVER.into(), AppProtocol::Http1);
    decisions(&mut pieces, &world, &service.table());
    accounts(&mut pieces, &world, &service.table());
}

fn heads(pieces: &mut Pieces) {
    let (http1, http2) = (request(Version::HTTP_11), request(Version::HTTP_2));
    let (http1_again, http2_again) = (|| form::repeat(&http1), || form::repeat(&http2));
    let addr = SocketAddr::from(SERVER);
    pieces.piece("check a head", 0, || &http1, |request| form::check(request).is_ok());
    pieces.piece("check a head of HTTP/2", 0, || &http2, |request| form::check(request).is_ok());
    pieces.piece("receive a head", 0, http1_again, form::receive);
    pieces.piece("head for a peer", 0, http1_again, |head| form::for_peer(head, addr, HttpVersion::Http1));
    pieces.piece("head for a server", 0, http1_again, form::for_h1);
    // The map grows by its Host.
    pieces.piece("head for a server of HTTP/1, from HTTP/2", 2, http2_again, form::for_h1);
    // The map's two; names that no standard knows are shared by now.
    pieces.piece("remember a head", 2, || &http1, |request| drop(form::repeat(request)));
    pieces.piece("clean a response's head", 0, response, form::clean_response);
}

fn decisions(pieces: &mut Pieces, world: &World, table: &Table) {
    let request = request(Version::HTTP_11);
    let Some(Governing::Http { table: rules, .. }) = table.routes.ports.get(&80).map(|port| &port.governing)
    else {
        panic!("a route governs the port");
    };
    let decision = |request: &mut &Request<Body>| {
        let suspicious = suspicious_path(request.uri().path());
        (suspicious, decide(rules, &head(request), fastrand::u64(..)))
    };
    pieces.piece("decide", 0, || &request, decision);
    let backend = table.backends.first().expect("a backend");
    pieces.piece("pick an endpoint", 0, || backend, |backend| backend.pick(By::Request, SERVICE, &[], now()));
    let endpoint = backend.pick(By::Request, SERVICE, &[], now()).expect("an endpoint");
    pieces.piece("an endpoint's state", 0, || &endpoint, |endpoint| drop(endpoint.carry(now())));
    pieces.piece("room", 0, || world, |world| drop(world.proxy.room(Direction::Outbound)));
}

fn accounts(pieces: &mut Pieces, world: &World, table: &Table) {
    let request = request(Version::HTTP_11);
    let Some(Governing::Http { table: rules, .. }) = table.routes.ports.get(&80).map(|port| &port.governing)
    else {
        panic!("a route governs the port");
    };
    let rule = rules.find(&head(&request)).expect("the second rule");
    let backend = table.backends.first().expect("a backend");
    let endpoint = backend.pick(By::Request, SERVICE, &[], now()).expect("an endpoint");
    let account = |response: &mut Response<Body>| {
        let mut access = Access::begin(Direction::Outbound, &world.proxy, &request, SERVER.into());
        access.parent(&table.routes.service, 80);
        access.rule(rule);
        access.backend(&backend.key);
        access.endpoint(&endpoint);
        access.close(Ok(std::mem::take(response)), Manner::Http1).is_ok()
    };
    pieces.piece("account for a request", 1, response, account);
    let labels = labels(rule, &backend.key);
    let count = |labels: &mut &RequestLabels| {
        world.proxy.metrics.request(labels, Duration::from_millis(2), Instant::now());
    };
    pieces.piece("count a request", 0, || &labels, count);
}

/// As an application sends it, or its proxy.
fn request(version: Version) -> Request<Body> {
    let request = match version {
        Version::HTTP_2 => Request::get(format!("http://{HOST}{TARGET}")),
        _ => Request::get(TARGET).header("host", HOST),
    };
    let request = HEADERS.iter().fold(request.version(version), |request, (name, value)| {
        request.header(HeaderName::from_static(name), *value)
    });
    request.body(Body::empty()).expect("a request")
}

fn head(request: &Request<Body>) -> RequestHead<'_> {
    RequestHead {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        host: form::host(request),
        scheme: "http",
    }
}

fn response() -> Response<Body> {
    let response =
        Response::builder().header("content-type", "application/json").header("content-length", "1024");
    response.header("date", "Tue, 25 Nov 2025 22:41:42 GMT").body(Body::empty()).expect("a response")
}

fn labels(rule: &HttpRule, backend: &BackendKey) -> RequestLabels {
    let (parent, rule, backend) = (Some(backend.clone()), Some(Rule::of(rule)), Some(backend.clone()));
    RequestLabels {
        direction: Direction::Outbound,
        exchange: Exchange::Http { method: "GET", status: Some(200) },
        failed: Failed::No,
        way: Way { parent, rule, backend, ..Way::default() },
        overflow: false,
    }
}
