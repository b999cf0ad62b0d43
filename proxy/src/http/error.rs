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
    pub fn reset(&self) -> h2::Reason {
        match self {
            Self::Http1(_) => h2::Reason::INTERNAL_ERROR,
            Self::Http2(error) => reset(error),
            Self::Client(error) => error.reset(),
        }
    }

    /// Whether the client's own body, or its end, is the reason.
    pub fn is_clients(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_user(),
            Self::Http2(_) => false,
            Self::Client(_) => true,
        }
    }
}

/// NO_ERROR would tell a reader that nothing is missing (RFC 9113 section 8.1).
fn reset(error: &h2::Error) -> h2::Reason {
    let told = error.reason().filter(|reason| error.is_reset() && *reason != h2::Reason::NO_ERROR);
    told.unwrap_or(h2::Reason::INTERNAL_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_off_is_never_told_as_an_end() {
        let broken = Error::from(h2::Error::from(h2::Reason::NO_ERROR));
        assert_eq!(broken.reset(), h2::Reason::INTERNAL_ERROR);
    }
}
