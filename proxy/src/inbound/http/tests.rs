use super::*;
use crate::{
    hot_path::{Relay, World, server},
    http::HttpVersion::{Http1, Http2},
    net::peek::Peeked,
};

/// One each for itself, its future, its account, and its exchange with the application; two for its head once more, since a kept
/// connection may be dead; and two by which its headers grow, because they get one more.
#[tokio::test]
async fn a_peers_request_has_few_allocations() {
    let (world, server) = (World::new(), server(Http1).await);
    let peer = Identity::parse("spiffe://cluster.local/ns/shop/sa/client").expect("an identity");
    let serve = |client| {
        let context = Context::peer(&world.proxy, peer.clone(), server);
        serve(context, Peeked::new(client).boxed(), Http2, Limits::PEER, None)
    };
    let relay = Relay { serve, version: Http2, server, speaks: Http1 };
    relay.check_allocations(8).await;
    relay.measure("inbound request, from a peer").await;
}
