//! The one shape that all route kinds are read through. The typed objects repeat the same fields
//! in dozens of structs (a rule's filters, a backendRef's filters, one set per kind); a round trip through JSON brings
//! them together, so that one piece of code interprets each field.

use super::ParentRef;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSpec {
    pub(super) parent_refs: Vec<ParentRef>,
    pub(super) rules: Vec<RawRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawRule {
    pub(super) name: Option<String>,
    pub(super) matches: Vec<RawMatch>,
    pub(super) filters: Vec<RawFilter>,
    pub(super) backend_refs: Vec<RawBackendRef>,
    pub(super) timeouts: Option<Value>,
    pub(super) retry: Option<Value>,
    pub(super) session_persistence: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawMatch {
    pub(super) path: Option<RawPath>,
    /// HTTPRoute: a method's name. GRPCRoute: a service and a method.
    pub(super) method: Option<RawMethod>,
    pub(super) headers: Vec<RawPair>,
    pub(super) query_params: Vec<RawPair>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawMethod {
    Http(String),
    Grpc(RawGrpcMethod),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawGrpcMethod {
    pub(super) service: Option<String>,
    pub(super) method: Option<String>,
    pub(super) r#type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPath {
    pub(super) r#type: Option<String>,
    pub(super) value: Option<String>,
}

/// A header or query parameter: to match, or to set.
#[derive(Debug, Deserialize)]
pub(super) struct RawPair {
    pub(super) name: String,
    #[serde(default)]
    pub(super) r#type: Option<String>,
    pub(super) value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawBackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) weight: Option<i64>,
    pub(super) filters: Vec<RawFilter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawFilter {
    pub(super) r#type: String,
    pub(super) request_header_modifier: Option<RawHeaderModifier>,
    pub(super) response_header_modifier: Option<RawHeaderModifier>,
    pub(super) request_redirect: Option<RawRedirect>,
    pub(super) url_rewrite: Option<RawRewrite>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawHeaderModifier {
    pub(super) set: Vec<RawPair>,
    pub(super) add: Vec<RawPair>,
    pub(super) remove: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawRedirect {
    pub(super) scheme: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) path: Option<RawPathModifier>,
    pub(super) status_code: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawRewrite {
    pub(super) hostname: Option<String>,
    pub(super) path: Option<RawPathModifier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawPathModifier {
    pub(super) r#type: String,
    pub(super) replace_full_path: Option<String>,
    pub(super) replace_prefix_match: Option<String>,
}
