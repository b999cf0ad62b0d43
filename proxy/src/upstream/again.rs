//! When a request may be made again, and what it takes.
//!
//! HTTP/2 says of a stream that it was not processed: REFUSED_STREAM, or a GOAWAY that names an earlier one (RFC 9113
//! section 8.7). A peer's proxy says so when its application did not get the request. Anything else that breaks an
//! exchange leaves it open whether the request had its effect: only what is safe and empty is then made again (RFC 9110
//! section 9.2.2).

use hyper::{Request, client::conn::TrySendError, http::request::Parts};

use crate::{
    body::{Body, Remembered},
    failure::ConnectError,
    http::form,
};

/// Why a request got no response.
pub enum SendError {
    /// It was not processed: it may go to another endpoint.
    NotSent(ConnectError, Box<Request<Body>>),
    /// The endpoint reset its stream, for this reason.
    Reset(h2::Reason),
    /// It was sent, wholly or in part, and no response came.
    Broken(hyper::Error),
}

/// What it takes to make a request once more.
pub(super) struct Again {
    head: Parts,
    body: Option<Remembered>,
    repeatable: bool,
}

/// What the end of an exchange without a response says of its request.
enum Said {
    /// It was not processed, and its connection takes no more.
    NotTaken,
    /// It was not processed.
    Refused,
    /// Its stream was reset, for this reason.
    Reset(h2::Reason),
    /// Nothing: the connection broke.
    Broke,
    /// It was processed, and what came is no response.
    Nonsense,
}

/// The request as it is to be sent, and what it takes to send it once more.
pub(super) fn remember(request: Request<Body>) -> (Request<Body>, Again) {
    let repeatable = form::is_repeatable(&request);
    let (head, body) = request.into_parts();
    let (body, remembered) = body.remember();
    let again = Again { head: head.clone(), body: remembered, repeatable };
    (Request::from_parts(head, body), again)
}

impl Again {
    /// The request once more, if all that has been sent of it is still known.
    pub(super) fn request(self) -> Option<Request<Body>> {
        let body = match self.body {
            None => Body::empty(),
            Some(remembered) => Body::repeated(remembered.again()?),
        };
        Some(Request::from_parts(self.head, body))
    }

    /// What is to be made of an exchange that ended without a response, on a connection that had been kept or not.
    pub(super) fn after(self, error: hyper::Error, kept: bool) -> SendError {
        match said(&error) {
            Said::Reset(reason) => SendError::Reset(reason),
            Said::Refused => self.or_broken(error, ConnectError::Refused),
            Said::NotTaken => self.or_broken(error, ConnectError::NotTaken),
            Said::Broke if kept && self.repeatable => self.or_broken(error, ConnectError::Http),
            Said::Broke | Said::Nonsense => SendError::Broken(error),
        }
    }

    fn or_broken(self, error: hyper::Error, why: fn(hyper::Error) -> ConnectError) -> SendError {
        match self.request() {
            Some(request) => SendError::NotSent(why(error), Box::new(request)),
            None => SendError::Broken(error),
        }
    }
}

fn said(error: &hyper::Error) -> Said {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    let Some(cause) = cause else {
        return if error.is_parse() { Said::Nonsense } else { Said::Broke };
    };
    match cause.reason() {
        Some(_) if cause.is_remote() && cause.is_go_away() => Said::NotTaken,
        Some(h2::Reason::REFUSED_STREAM) if cause.is_remote() => Said::Refused,
        Some(reason) if cause.is_remote() && cause.is_reset() => Said::Reset(reason),
        None if cause.is_io() => Said::Broke,
        _ => Said::Nonsense,
    }
}

impl From<TrySendError<Request<Body>>> for SendError {
    fn from(mut error: TrySendError<Request<Body>>) -> Self {
        match error.take_message() {
            Some(request) => not_taken(error.into_error(), request),
            None => Self::Broken(error.into_error()),
        }
    }
}

/// A request that was given back.
pub(super) fn not_taken(error: hyper::Error, request: Request<Body>) -> SendError {
    SendError::NotSent(ConnectError::NotTaken(error), Box::new(request))
}
