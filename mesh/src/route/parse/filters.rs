//! Reading filters, of rules and of backendRefs alike.

use super::{Reader, port_number};
use crate::names::is_dns_name;
use crate::route::raw::{RawFilter, RawHeaderModifier, RawPair, RawPathModifier, RawRedirect, RawRewrite};
use crate::route::{Filters, HeaderModifier, PathModifier, Redirect, Scheme, UrlRewrite};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use std::sync::Arc;

/// Headers that frame a message or belong to one connection, and Host, which URLRewrite's hostname is for.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The header that tells a server who its client is: only the mesh may write it.
const IDENTITY: &str = "x-forwarded-client-cert";
/// The status codes of a redirect (HTTPRequestRedirectFilter, `statusCode`).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

impl Reader {
    /// The filters of a rule or backendRef, and its redirect.
    pub(super) fn filters(&mut self, at: &str, raw: &[RawFilter]) -> (Filters, Option<Redirect>) {
        let (mut filters, mut redirect) = (Filters::default(), None);
        for (ix, filter) in raw.iter().enumerate() {
            let at = &format!("{at}.filters[{ix}]");
            if raw.iter().take(ix).any(|earlier| earlier.r#type == filter.r#type) {
                self.unsupported(at, format!("{} is given more than once", filter.r#type));
            }
            match filter.r#type.as_str() {
                "RequestHeaderModifier" => {
                    filters.request_headers = self.modifier(at, &filter.request_header_modifier);
                }
                "ResponseHeaderModifier" => {
                    filters.response_headers =
                        self.modifier(at, &filter.response_header_modifier).map(Arc::new);
                }
                "URLRewrite" => filters.rewrite = self.rewrite(at, &filter.url_rewrite),
                "RequestRedirect" => redirect = self.redirect(at, &filter.request_redirect),
                other => self.unsupported(at, format!("filter {other} is not supported yet; remove it")),
            }
        }
        if redirect.is_some() && filters.rewrite.is_some() {
            self.refuse(
                "IncompatibleFilters",
                format!("{at}: RequestRedirect and URLRewrite cannot be combined"),
            );
        }
        (filters, redirect)
    }

    /// The settings of a filter stand in the field of its type.
    fn settings<'r, T>(&mut self, at: &str, raw: &'r Option<T>) -> Option<&'r T> {
        self.accept(at, raw.as_ref().ok_or_else(|| "the filter's settings are missing".to_owned()))
    }

    fn modifier(&mut self, at: &str, raw: &Option<RawHeaderModifier>) -> Option<HeaderModifier> {
        let raw = self.settings(at, raw)?;
        let mut remove = Vec::new();
        for name in &raw.remove {
            remove.extend(self.accept(at, header_name(name)));
        }
        Some(HeaderModifier { set: self.pairs(at, &raw.set), add: self.pairs(at, &raw.add), remove })
    }

    /// Of several entries for one name the first counts (HTTPHeader, `name`).
    fn pairs(&mut self, at: &str, raw: &[RawPair]) -> Vec<(HeaderName, HeaderValue)> {
        let mut pairs: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for pair in raw {
            let name = self.accept(at, header_name(&pair.name));
            let value = HeaderValue::from_str(&pair.value);
            let value =
                self.accept(at, value.map_err(|_| format!("{:?} is not a header's value", pair.value)));
            if let (Some(name), Some(value)) = (name, value)
                && pairs.iter().all(|(earlier, _)| *earlier != name)
            {
                pairs.push((name, value));
            }
        }
        pairs
    }

    fn rewrite(&mut self, at: &str, raw: &Option<RawRewrite>) -> Option<UrlRewrite> {
        let raw = self.settings(at, raw)?;
        let hostname = self.hostname(at, &raw.hostname);
        let hostname = hostname.and_then(|name| HeaderValue::from_str(&name).ok());
        Some(UrlRewrite { hostname, path: self.path_modifier(at, &raw.path) })
    }

    fn redirect(&mut self, at: &str, raw: &Option<RawRedirect>) -> Option<Redirect> {
        let raw = self.settings(at, raw)?;
        let scheme = raw.scheme.as_deref().map(|name| self.accept(at, scheme(name)));
        let port = raw.port.map(|port| self.accept(at, port_number(port)));
        let status = self.accept(at, redirect_status(raw.status_code.unwrap_or(302)));
        Some(Redirect {
            scheme: scheme.flatten(),
            hostname: self.hostname(at, &raw.hostname),
            port: port.flatten(),
            path: self.path_modifier(at, &raw.path),
            status: status.unwrap_or(StatusCode::FOUND),
        })
    }

    fn hostname(&mut self, at: &str, raw: &Option<String>) -> Option<String> {
        let name = raw.as_deref().filter(|name| !name.is_empty())?;
        let plain = is_dns_name(name).then(|| name.to_owned());
        self.accept(at, plain.ok_or_else(|| format!("hostname {name:?} is not a lower-case DNS name")))
    }

    fn path_modifier(&mut self, at: &str, raw: &Option<RawPathModifier>) -> Option<PathModifier> {
        let raw = raw.as_ref()?;
        self.accept(at, path_modifier(raw))
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    let name =
        HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a header's name"))?;
    let lower = name.as_str();
    if FRAMING.contains(&lower) {
        return Err(format!("the header {lower} belongs to the connection; filters may not change it"));
    }
    if lower == IDENTITY || lower.starts_with("heddle-") {
        return Err(format!("the header {lower} is the mesh's own; filters may not change it"));
    }
    Ok(name)
}

fn scheme(name: &str) -> Result<Scheme, String> {
    match name {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        _ => Err(format!("scheme {name:?} is neither http nor https")),
    }
}

fn redirect_status(code: i64) -> Result<StatusCode, String> {
    let known = u16::try_from(code).ok().filter(|code| REDIRECTS.contains(code));
    let status = known.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| format!("statusCode {code} is not one of 301, 302, 303, 307 and 308"))
}

fn path_modifier(raw: &RawPathModifier) -> Result<PathModifier, String> {
    match (raw.r#type.as_str(), &raw.replace_full_path, &raw.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), None) => Ok(PathModifier::Full(new_path(path)?.to_owned())),
        ("ReplacePrefixMatch", None, Some(path)) => {
            let path = new_path(path)?;
            Ok(PathModifier::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned()))
        }
        (kind, ..) => Err(format!("path of type {kind:?} needs exactly the field of its type")),
    }
}

/// A path that can be written into a request line as it is.
fn new_path(path: &str) -> Result<&str, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    let fits = path.len() <= 1024 && path.bytes().all(plain);
    fits.then_some(path).ok_or_else(|| format!("{path:?} is not a plain path of at most 1024 bytes"))
}
