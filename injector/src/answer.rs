//! What the servers answer with: bodies, JSON, and refusals as Kubernetes' `Status` objects.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use serde_json::{Value, json};

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Long bodies go out in pieces of this size, each only when its connection can take it.
pub const PIECE: usize = 64 * 1024;

/// A long body, at hand, that holds `H` until it is sent or given up. As one frame it would leave for the connection's
/// queue at once, and count for nothing there.
#[derive(Debug)]
pub struct Pieces<H> {
    left: Bytes,
    _held: H,
}

impl<H> Pieces<H> {
    /// The body `whole`, which holds `held`.
    pub fn new(whole: Bytes, held: H) -> Self {
        Self { left: whole, _held: held }
    }
}

impl<H: Unpin> http_body::Body for Pieces<H> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.len().min(PIECE);
        let piece = self.left.split_to(size);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}

/// A request that is not served, and what its sender can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status code.
    pub code: StatusCode,
    /// What is wrong, in a sentence for people.
    pub message: String,
}

impl Refusal {
    /// A refusal from its parts.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// 400: the request makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404: there is no such thing.
    pub fn absent(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 403: it will not be served to this caller.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// The `Status` object that Kubernetes' clients understand.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason(), "code": self.code.as_u16(),
        })
    }

    /// The reason in the vocabulary of Kubernetes' `metav1.StatusReason`.
    fn reason(&self) -> &'static str {
        match self.code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
            StatusCode::GONE => "Expired",
            StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
            StatusCode::REQUEST_TIMEOUT => "Timeout",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            _ => "InternalError",
        }
    }

    /// The answer.
    pub fn response(&self) -> Response<Body> {
        let mut response = json_of(self.code, &self.status());
        let headers = response.headers_mut();
        if self.code == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.code == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON answer.
pub fn json_of(code: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    whole(code, "application/json", body)
}

/// An answer whose body is at hand.
pub fn whole(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).boxed_unsync();
    with(code, content_type, body)
}

/// An answer with any body.
pub fn with(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_body_goes_in_pieces_and_holds_its_place_to_the_end() {
        let held = std::sync::Arc::new(());
        let mut body = Pieces::new(vec![7; PIECE + 1].into(), std::sync::Arc::clone(&held));
        let mut sizes = Vec::new();
        while let Some(frame) = body.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(std::sync::Arc::strong_count(&held), 2);
        }
        assert_eq!(sizes, [PIECE, 1]);
        drop(body);
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }
}
