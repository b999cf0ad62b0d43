//! When a request may be made again, and what it takes.
//!
//! HTTP/2 says of a stream that it was not processed: REFUSED_STREAM, or a GOAWAY that names an earlier one (RFC 9113
//! section 8.7). A peer's proxy says so when its application did not get the request. Anything else that breaks an
//! exchange leaves it open whether the request had its effect: only what is safe and empty is then made again (RFC 9110
//! section 9.2.2).

use hyper::Request;

use super::h2_exchange::Unanswered;
use crate::{
    body::{Body, Remembered},
    failure::ConnectError,
    http::{self, form},
};

/// Why a request got no response.
pub enum SendError {
    /// It was not processed, and may go to another endpoint.
    NotSent(ConnectError),
    /// The endpoint reset its stream, for this reason.
    Reset(h2::Reason),
    /// It was sent, wholly or in part, and no response came.
    Broken(http::Error),
}

/// What it takes, besides its head, to make a request once more.
pub(super) struct Again {
    body: Option<Remembered>,
    repeatable: bool,
}

/// Takes a request's body, to be sent, and what it takes to send it once more.
pub(super) fn remember(request: &mut Request<Body>) -> (Body, Again) {
    let repeatable = form::is_repeatable(request);
    let (body, remembered) = std::mem::take(request.body_mut()).remember();
    (body, Again { body: remembered, repeatable })
}

impl Again {
    /// Gives a request its body back; `false` if not all that has been sent of it is still known.
    pub(super) fn restore(self, request: &mut Request<Body>) -> bool {
        let Some(remembered) = self.body else { return true };
        let Some(again) = remembered.again() else { return false };
        *request.body_mut() = Body::repeated(again);
        true
    }

    /// What is to be made of an exchange that ended without a response.
    pub(super) fn after(self, unanswered: Unanswered, kept: bool, request: &mut Request<Body>) -> SendError {
        let (error, why): (_, fn(http::Error) -> ConnectError) = match unanswered {
            // The client's own doing says nothing of the endpoint.
            Unanswered::Client(error) => return SendError::Broken(http::Error::Client(Box::new(error))),
            Unanswered::Unsent(error) if error.is_io() || error.reason().is_some() => {
                (error, ConnectError::NotTaken)
            }
            Unanswered::Unsent(error) => return SendError::Broken(error.into()),
            Unanswered::Ended(error) => match error.reason() {
                Some(_) if error.is_remote() && error.is_go_away() => (error, ConnectError::NotTaken),
                Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => (error, ConnectError::Refused),
                Some(reason) if error.is_remote() && error.is_reset() => return SendError::Reset(reason),
                None if error.is_io() && kept && self.repeatable => (error, ConnectError::Http),
                _ => return SendError::Broken(error.into()),
            },
        };
        if self.restore(request) {
            SendError::NotSent(why(error.into()))
        } else {
            SendError::Broken(error.into())
        }
    }
}
