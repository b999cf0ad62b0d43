//! A Pod as discovery serves it.

use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

/// What [`super::reduce`] leaves of a Pod. A type of its own: a proxy needs no code for the hundreds of fields that it
/// never gets to see, which would be a sixth of its program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReducedPod {
    #[serde(skip_deserializing, default = "api_version")]
    pub(super) api_version: &'static str,
    #[serde(skip_deserializing, default = "kind")]
    pub(super) kind: &'static str,
    /// Its names, UID and version, its deletion, what is served of its annotations, its zone.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it was made to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ReducedSpec>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ReducedStatus>,
}

/// What is left of a Pod's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReducedSpec {
    /// Its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Whether it shares its node's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
}

/// What is left of a Pod's `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReducedStatus {
    /// Whether it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Its addresses.
    #[serde(default, rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pub pod_ips: Option<Vec<ReducedIp>>,
    /// Its condition `Ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<ReducedCondition>>,
}

/// One address of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReducedIp {
    /// As text.
    #[serde(default)]
    pub ip: String,
}

/// One condition of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReducedCondition {
    /// Its name.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
}

fn api_version() -> &'static str {
    ReducedPod::API_VERSION
}

fn kind() -> &'static str {
    ReducedPod::KIND
}

impl Default for ReducedPod {
    fn default() -> Self {
        let metadata = ObjectMeta::default();
        Self { api_version: api_version(), kind: kind(), metadata, spec: None, status: None }
    }
}

impl Resource for ReducedPod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl Metadata for ReducedPod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
