//! Why an exchange over HTTP broke off.

/// What a connection's or a stream's end is told by. HTTP/1 is spoken by hyper, HTTP/2 by h2.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Over HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The client broke its own request off, so that the endpoint could not answer it.
    #[error("the client broke its request off")]
    Client(#[source] Box<Self>),
}

impl Error {
    /// The code that tells a reader over HTTP/2 that what it reads has broken off: its writer's own, if that was a reset.
    pub fn reset_code(&self) -> h2::Reason {
        match self {
            Self::Http1(_) => h2::Reason::INTERNAL_ERROR,
            Self::Http2(error) => passed_on(error.reason().filter(|_| error.is_reset())),
            Self::Client(error) => error.reset_code(),
        }
    }

    /// Whether the client's own request is the reason, or its end.
    pub fn is_clients(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_user(),
            // What h2 itself does not send.
            Self::Http2(error) => error.reason().is_none() && !error.is_io(),
            Self::Client(_) => true,
        }
    }
}

/// The code of what broke off, as it is passed on. NO_ERROR would tell a reader that nothing is missing (RFC 9113 section
/// 8.1), and REFUSED_STREAM that nothing was done (section 8.7), which is said by other means where it is true.
pub(super) fn passed_on(reason: Option<h2::Reason>) -> h2::Reason {
    let says_less = [h2::Reason::NO_ERROR, h2::Reason::REFUSED_STREAM];
    reason.filter(|reason| !says_less.contains(reason)).unwrap_or(h2::Reason::INTERNAL_ERROR)
}

#[cfg(test)]
mod tests {
    use h2::Reason;

    use super::*;

    #[test]
    fn what_broke_off_is_never_told_as_an_end_and_else_as_it_is() {
        assert_eq!(passed_on(None), Reason::INTERNAL_ERROR);
        assert_eq!(passed_on(Some(Reason::NO_ERROR)), Reason::INTERNAL_ERROR);
        assert_eq!(passed_on(Some(Reason::REFUSED_STREAM)), Reason::INTERNAL_ERROR);
        for reason in [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::HTTP_1_1_REQUIRED] {
            assert_eq!(passed_on(Some(reason)), reason);
        }
    }
}
