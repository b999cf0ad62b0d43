//! A request or connection while an endpoint carries it, and what its end says of the endpoint.

use std::{sync::Arc, time::Duration};

use hyper::{Response, StatusCode};
use mesh::balance::{Failed, Outcome, Ticket};

use super::{
    SendError,
    endpoint::{Endpoint, now},
};
use crate::{
    failure::{ConnectError, OVERLOADED},
    http::{self, respond::GRPC_STATUS},
};

/// A client that leaves while a connection is still being made says nothing, unless it waited for longer than any
/// endpoint within a cluster takes: else one that drops packets would never be set aside by impatient clients.
const SLOW_CONNECT: Duration = Duration::from_secs(1);

/// gRPC statuses that say what a 5xx says: UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS.
const GRPC_FAILURES: [&[u8]; 4] = [b"2", b"13", b"14", b"15"];

/// A request or connection that an endpoint carries, until it is dropped.
pub struct Load {
    endpoint: Arc<Endpoint>,
    /// Until it is clear what became of it.
    ticket: Option<Ticket>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// A connection is being made, since then.
    Connecting(Duration),
    /// A connection is there, for a connection.
    Connected,
    /// A connection is there, and a request on it, since then.
    Sent(Duration),
}

impl Load {
    pub(super) fn new(endpoint: Arc<Endpoint>, ticket: Ticket, now: Duration) -> Self {
        Self { endpoint, ticket: Some(ticket), stage: Stage::Connecting(now) }
    }

    /// The request's connection is there since then: from there on the time is the endpoint's.
    pub(super) fn sent(&mut self, since: Duration) {
        self.stage = Stage::Sent(since);
    }

    /// Says what the outcome of a request says of the endpoint.
    pub(super) fn judge<B, T>(&mut self, sent: &Result<(Response<B>, T), SendError>) {
        let now = now();
        let outcome = match sent {
            Ok((response, _)) if is_failure(response) => Outcome::Failed(Failed::Answer),
            Ok(_) => self.answered(now),
            Err(SendError::NotSent(error)) => of_connect(error),
            Err(SendError::Reset(_)) => Outcome::Failed(Failed::Answer),
            Err(SendError::Broken(error)) => of_broken(error),
        };
        self.report(outcome, now);
    }

    /// Who carries it.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// No connection came about.
    pub fn unreached(&mut self, error: &ConnectError) {
        self.report(of_connect(error), now());
    }

    /// A connection has come about. Whether a server took it shows by what follows.
    pub fn connected(&mut self) {
        self.stage = Stage::Connected;
    }

    /// A server took the connection.
    pub fn taken(&mut self) {
        self.report(Outcome::Taken, now());
    }

    /// The connection was reset before a byte came: nobody serves there.
    pub fn refused(&mut self) {
        self.report(Outcome::Failed(Failed::Unreached), now());
    }

    fn answered(&self, now: Duration) -> Outcome {
        match self.stage {
            Stage::Sent(since) => Outcome::Answered(now.saturating_sub(since)),
            Stage::Connecting(_) | Stage::Connected => Outcome::Taken,
        }
    }

    fn left(&self, now: Duration) -> Outcome {
        match self.stage {
            Stage::Connecting(since) if now.saturating_sub(since) >= SLOW_CONNECT => {
                Outcome::Failed(Failed::Unreached)
            }
            Stage::Connecting(_) | Stage::Connected => Outcome::Nothing,
            Stage::Sent(since) => Outcome::Left(now.saturating_sub(since)),
        }
    }

    fn report(&mut self, outcome: Outcome, now: Duration) {
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.report(ticket, outcome, now);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let now = now();
            self.report(self.left(now), now);
        }
        self.endpoint.state().end();
    }
}

fn is_failure<B>(response: &Response<B>) -> bool {
    let grpc = || response.headers().get(GRPC_STATUS).is_some_and(|s| GRPC_FAILURES.contains(&s.as_bytes()));
    response.status() >= StatusCode::INTERNAL_SERVER_ERROR || grpc()
}

fn of_connect(error: &ConnectError) -> Outcome {
    match error {
        ConnectError::Io(_) | ConnectError::Timeout(_) | ConnectError::Tls(_) | ConnectError::Http(_) => {
            Outcome::Failed(Failed::Unreached)
        }
        ConnectError::Refused(_) | ConnectError::AtPeer(OVERLOADED) => Outcome::Failed(Failed::Answer),
        ConnectError::AtPeer(_) => Outcome::Failed(Failed::Unreached),
        // This proxy's own matter; a connection that a server ends in good order; what another request has reported.
        ConnectError::NoCertificate
        | ConnectError::Unnameable
        | ConnectError::NotTaken(_)
        | ConnectError::Shared { .. } => Outcome::Nothing,
    }
}

/// A client that broke off its own body broke the exchange.
fn of_broken(error: &http::Error) -> Outcome {
    if error.is_clients() { Outcome::Nothing } else { Outcome::Failed(Failed::Answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_answer(status: u16, grpc: Option<&'static str>, failed: bool) {
        let mut response = Response::builder().status(status);
        if let Some(grpc) = grpc {
            response = response.header(GRPC_STATUS, grpc);
        }
        assert_eq!(is_failure(&response.body(()).expect("a response")), failed, "{status} {grpc:?}");
    }

    #[test]
    fn a_servers_own_errors_count_and_its_clients_do_not() {
        for (status, failed) in
            [(200, false), (302, false), (404, false), (429, false), (500, true), (503, true)]
        {
            check_answer(status, None, failed);
        }
    }

    #[test]
    fn a_grpc_status_counts_as_the_http_status_that_it_stands_for() {
        for (status, failed) in
            [("0", false), ("5", false), ("12", false), ("2", true), ("13", true), ("14", true)]
        {
            check_answer(200, Some(status), failed);
        }
    }

    #[track_caller]
    fn check_connect(error: &ConnectError, expected: Outcome) {
        assert_eq!(of_connect(error), expected, "{error}");
    }

    #[test]
    fn a_client_that_breaks_its_request_off_says_nothing_of_the_endpoint() {
        let broke = || http::Error::from(h2::Error::from(h2::Reason::CANCEL));
        assert_eq!(of_broken(&http::Error::Client(Box::new(broke()))), Outcome::Nothing);
        assert_eq!(of_broken(&broke()), Outcome::Failed(Failed::Answer));
    }

    #[test]
    fn what_the_endpoint_has_no_part_in_says_nothing_of_it() {
        check_connect(&ConnectError::NoCertificate, Outcome::Nothing);
        check_connect(&ConnectError::Unnameable, Outcome::Nothing);
        let shared = ConnectError::Shared { reason: "connection_refused", why: String::new() };
        check_connect(&shared, Outcome::Nothing);
    }

    #[test]
    fn what_its_proxy_could_not_hand_on_was_not_reached_unless_that_was_full() {
        let unreached = Outcome::Failed(Failed::Unreached);
        check_connect(&ConnectError::Timeout(3), unreached);
        check_connect(&ConnectError::AtPeer("connection_refused"), unreached);
        check_connect(&ConnectError::AtPeer(OVERLOADED), Outcome::Failed(Failed::Answer));
    }
}
