//! A peer's TCP connections that come one after another over one connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mesh::identity::Identity;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::debug;

use super::tunnel;
use crate::{
    drain::Stage,
    net::{peek::Peeked, socket::reset_on_close, stream::Stream as _},
    proxy::Proxy,
    tunnel::{Lent, Peer, Tunnels},
};

/// How long a connection is kept that carries nothing. Its client ends it long before.
const IDLE: Duration = Duration::from_secs(120);
/// How long a tunnel may take that was opened before its client heard that no more are taken…
const CROSSING: Duration = Duration::from_secs(1);
/// …and the first one, which follows its handshake.
const FIRST: Duration = Duration::from_secs(10);

/// Serves each in its turn, until one of them breaks, the peer leaves, or no more are taken.
pub(super) async fn serve(
    proxy: &Arc<Proxy>,
    connection: Peer,
    peer: Identity,
    caller: SocketAddr,
    server: SocketAddr,
) {
    let until = Instant::now() + connection.usable();
    let tunnels = Arc::new(Mutex::new(Tunnels::new(connection)));
    let mut crossing = FIRST;
    loop {
        let mut lent = Lent::of(&tunnels).await;
        match Box::pin(next(proxy, &mut lent, until, crossing)).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                debug!(%caller, %server, %error, "a peer's connection broke between two tunnels");
                return reset_on_close(lent.socket());
            }
        }
        crossing = CROSSING;
        Box::pin(tunnel(proxy, Peeked::new(lent), peer.clone(), caller, server)).await;
        // Whoever carried it may still hold it: a switched protocol outlives its request.
        if !Lent::of(&tunnels).await.get_mut().is_free() {
            return;
        }
    }
}

/// Waits for the next one; says whether there is any.
async fn next(proxy: &Proxy, lent: &mut Lent<Peer>, until: Instant, crossing: Duration) -> io::Result<bool> {
    let tunnels = lent.get_mut();
    let mut draining = proxy.draining.clone();
    tokio::select! {
        // The end before the next tunnel, or a peer that always has one would never hear of it.
        biased;
        () = draining.reaches(Stage::Leaving) => {}
        () = sleep_until(until) => {}
        opened = tunnels.accept() => return opened,
        () = sleep(IDLE) => {}
    }
    let last = async {
        tunnels.take_no_more().await?;
        tunnels.accept().await
    };
    timeout(crossing, last).await.unwrap_or(Ok(false))
}
