use super::*;
use crate::{
    hot_path::{Relay, World, server},
    http::HttpVersion::{Http1, Http2},
};

/// Requests of an application that speaks HTTP/1, to a server that speaks what its Service declares.
async fn check(name: &str, speaks: HttpVersion, declared: AppProtocol, allocations: u64) {
    let (world, server) = (World::new(), server(speaks).await);
    let target = Target::Service(world.service(server, declared), 80);
    let serve = |client| {
        let (proxy, target) = (Arc::clone(&world.proxy), target.clone());
        async move { serve(&proxy, Peeked::new(client), Http1, target, ([10, 96, 0, 1], 80).into()).await }
    };
    let relay = Relay { serve, version: Http1, server, speaks };
    relay.check_allocations(allocations).await;
    relay.measure(name).await;
}

/// One each for itself, its future, its account, and its exchange with the endpoint; four for its head once more, since a
/// kept connection may be dead (the map's two, and one for each name that no standard knows, here two).
#[tokio::test]
async fn a_request_that_goes_as_http1_has_few_allocations() {
    check("outbound request, as HTTP/1", Http1, AppProtocol::Http1, 8).await;
}

/// As above, and one for the authority, which h2 copies. Two less, because the server of the test reads no Host, by which its
/// headers would grow: hyper alone sends one. Three less, because hyper's client makes a task and two channels for each, and
/// ours none.
#[tokio::test]
async fn a_request_that_goes_as_http2_has_few_allocations() {
    check("outbound request, as HTTP/2", Http2, AppProtocol::Http2, 4).await;
}
