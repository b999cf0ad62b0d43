//! The responses that the proxy makes by itself. Each says who speaks and why (RFC 9209).

use hyper::{
    Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION},
};

use crate::{
    body::Body,
    failure::{Failure, PROXY_STATUS},
};

/// The answer to a request that failed in the mesh.
pub fn failure(failure: &Failure) -> Response<Body> {
    let mut response = Response::new(Body::words(format!("heddle: {}\n", failure.chain())));
    *response.status_mut() = failure.status();
    response.headers_mut().insert(PROXY_STATUS, failure.proxy_status());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(failure, Failure::BadRequest(_)) {
        // Where the next request begins is not certain any more.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer of a rule that sends the client elsewhere.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
        .headers_mut()
        .insert(PROXY_STATUS, HeaderValue::from_static("heddle; details=\"redirected by a route\""));
    response
}
