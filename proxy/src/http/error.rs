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
            Self::Http2(error) => reset_code(error),
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

/// As [`Error::reset_code`]. NO_ERROR would tell the reader that nothing is missing (RFC 9113 section 8.1), and
/// REFUSED_STREAM that nothing was done (section 8.7), which is said by other means where it is true.
pub(super) fn reset_code(error: &h2::Error) -> h2::Reason {
    let says_less = [h2::Reason::NO_ERROR, h2::Reason::REFUSED_STREAM];
    let told = error.reason().filter(|reason| error.is_reset() && !says_less.contains(reason));
    told.unwrap_or(h2::Reason::INTERNAL_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_off_is_never_told_as_an_end() {
        let broken = Error::from(h2::Error::from(h2::Reason::NO_ERROR));
        assert_eq!(broken.reset_code(), h2::Reason::INTERNAL_ERROR);
    }
}
