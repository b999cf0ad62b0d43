//! Connections that this pod opens: where they were going, what they speak, and who carries them.

mod http;
mod protocol;
mod tcp;

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::{
    discovery::{Destination, LiveService},
    metrics::Direction,
    net::{
        peek::Peeked,
        socket::{is_own_port, original_destination, reset_on_close},
        stream::Stream as _,
    },
    proxy::Proxy,
    upstream::Endpoint,
};
use protocol::Speaks;

/// Where a connection goes, once its address is understood.
#[derive(Clone)]
pub enum Target {
    /// One port of a Service.
    Service(Arc<LiveService>, u16),
    /// One port of one pod.
    Pod(Arc<Endpoint>),
}

/// Serves one captured connection from `caller`, a process of this pod.
///
/// Each phase is boxed, so that it gives its memory back before the next begins: what a connection does last is all
/// that it holds while it is idle.
pub async fn serve(proxy: Arc<Proxy>, stream: TcpStream, caller: SocketAddr) {
    let destination = original_destination(&stream, caller).ok();
    let destination = match destination {
        Some(destination) if !is_loop(&stream, destination) => destination,
        _ => {
            let why = "a connection to the proxy's own port";
            return refuse(&proxy, &stream, destination, "not_captured", why);
        }
    };
    let mut client = Peeked::new(stream);
    let port = destination.port();
    let target = match Box::pin(proxy.discovery.find(destination.ip())).await {
        Destination::Service(service) if has_port(&service, port) => Target::Service(service, port),
        Destination::Pod(pod) => Target::Pod(pod.endpoint(port, &proxy.registry)),
        Destination::Service(_) | Destination::Elsewhere => {
            return Box::pin(tcp::pass_through(&proxy, &mut client, destination)).await;
        }
        Destination::Away => {
            let why = "unknown, and the control plane does not answer";
            return refuse(&proxy, client.socket(), Some(destination), "destination_not_found", why);
        }
    };
    match Box::pin(protocol::of(&mut client, &target, destination)).await {
        Ok(Speaks::Http(version)) => {
            Box::pin(http::serve(&proxy, client, version, target, destination)).await;
        }
        Ok(Speaks::Bytes(early)) => {
            Box::pin(tcp::carry(&proxy, &mut client, &target, destination, early)).await;
        }
        Err(error) => debug!(%destination, %error, "a client left before it said anything"),
    }
}

fn has_port(service: &LiveService, port: u16) -> bool {
    service.table().routes.ports.contains_key(&port)
}

/// Dialled directly, or redirected back to ourselves: serving it would never end.
fn is_loop(stream: &TcpStream, destination: SocketAddr) -> bool {
    let here = || stream.local_addr().is_ok_and(|local| local.ip().to_canonical() == destination.ip());
    is_own_port(destination.port()) && (destination.ip().is_loopback() || here())
}

fn refuse(
    proxy: &Proxy,
    stream: &TcpStream,
    destination: Option<SocketAddr>,
    reason: &'static str,
    why: &str,
) {
    warn!(?destination, reason, "refused an outbound connection: {why}");
    proxy.metrics.refuse(Direction::Outbound, reason);
    reset_on_close(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, F: std::future::Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_phases_of_an_idle_connection_are_small() {
        let serve = size(|(a, b, c)| serve(a, b, c));
        let carry =
            size(|(a, b, c, d, e): (&'static Arc<Proxy>, &'static mut Peeked, &'static Target, _, _)| {
                tcp::carry(a, b, c, d, e)
            });
        assert!(serve + carry < 1536, "box what is moved into these: {serve} + {carry} bytes");
    }
}
