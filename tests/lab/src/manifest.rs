//! Manifests in: files to objects with their keys. What an object may hold is `validate`'s matter.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::protocol::Source;

/// Names an object. `namespace` is empty for kinds that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind as written, such as `Pod`.
    pub kind: String,
    /// The namespace, or nothing.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object that has been validated.
    pub fn of(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        Self::new(text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
    }

    /// From what a user types: `httproutes shop/split`, `ns shop`, `pod web` (namespace `default`).
    pub fn from_words(kind: &str, name: &str) -> Result<Self, String> {
        let kind = Kind::find(kind)?;
        let (namespace, name) = match (name.split_once('/'), kind.namespaced) {
            (Some((namespace, name)), true) => (namespace, name),
            (None, true) => ("default", name),
            (None, false) => ("", name),
            (Some(_), false) => return Err(format!("a {} has no namespace: give its name alone", kind.kind)),
        };
        Ok(Self::new(kind.kind, namespace, name))
    }

    /// The file of this object in the control plane's directory. `_` is in no Kubernetes name.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.json", self.kind.to_lowercase(), self.namespace, self.name)
    }

    /// The path of this object in a Kubernetes API.
    pub fn api_path(&self) -> Option<String> {
        let kind = Kind::find(&self.kind).ok()?;
        let group = match kind.group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/{}", kind.version),
        };
        Some(match kind.namespaced {
            true => format!("{group}/namespaces/{}/{}/{}", self.namespace, kind.plural, self.name),
            false => format!("{group}/{}/{}", kind.plural, self.name),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A kind that a world can hold.
#[derive(Debug)]
pub struct Kind {
    /// As in manifests.
    pub kind: &'static str,
    /// API group; empty for the core.
    pub group: &'static str,
    /// The version that discovery is asked for; manifests may use any.
    pub version: &'static str,
    /// As in API paths.
    pub plural: &'static str,
    /// What people type for short.
    pub short: &'static str,
    /// Whether it lives in a namespace.
    pub namespaced: bool,
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const GATEWAY_X: &str = "gateway.networking.x-k8s.io";

const fn core(kind: &'static str, plural: &'static str, short: &'static str) -> Kind {
    Kind { kind, group: "", version: "v1", plural, short, namespaced: true }
}

const fn gateway(kind: &'static str, plural: &'static str) -> Kind {
    Kind { kind, group: GATEWAY, version: "v1", plural, short: "", namespaced: true }
}

const fn experimental(kind: &'static str, plural: &'static str) -> Kind {
    Kind { kind, group: GATEWAY_X, version: "v1alpha1", plural, short: "", namespaced: true }
}

/// Every kind of a world, in the order in which they are set up.
pub const KINDS: &[Kind] = &[
    Kind {
        kind: "Namespace",
        group: "",
        version: "v1",
        plural: "namespaces",
        short: "ns",
        namespaced: false,
    },
    core("ServiceAccount", "serviceaccounts", "sa"),
    core("ConfigMap", "configmaps", "cm"),
    core("Secret", "secrets", ""),
    core("Service", "services", "svc"),
    Kind {
        kind: "EndpointSlice",
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        short: "",
        namespaced: true,
    },
    gateway("HTTPRoute", "httproutes"),
    gateway("GRPCRoute", "grpcroutes"),
    gateway("TCPRoute", "tcproutes"),
    gateway("TLSRoute", "tlsroutes"),
    gateway("UDPRoute", "udproutes"),
    gateway("BackendTLSPolicy", "backendtlspolicies"),
    gateway("ReferenceGrant", "referencegrants"),
    experimental("XBackendTrafficPolicy", "xbackendtrafficpolicies"),
    Kind {
        kind: "XMesh",
        group: GATEWAY_X,
        version: "v1alpha1",
        plural: "xmeshes",
        short: "",
        namespaced: false,
    },
    core("Pod", "pods", "po"),
];

impl Kind {
    /// By kind, plural, singular or short name, in any case.
    pub fn find(word: &str) -> Result<&'static Self, String> {
        let typed = word;
        let word = word.to_lowercase();
        KINDS
            .iter()
            .find(|k| {
                word == k.kind.to_lowercase() || word == k.plural || (!k.short.is_empty() && word == k.short)
            })
            .ok_or_else(|| {
                let known: Vec<_> = KINDS.iter().map(|k| k.kind).collect();
                format!("kind {typed} is not supported by the lab; it knows {}", known.join(", "))
            })
    }

    /// Whether an `apiVersion` is one of this kind's.
    pub fn has_version(&self, api_version: &str) -> bool {
        match self.group {
            "" => api_version == "v1",
            group => api_version.strip_prefix(group).is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it came from.
    pub file: String,
    /// As written.
    pub object: Value,
}

/// Splits files into objects; a `List` becomes its items.
pub fn parse(sources: &[Source]) -> Result<Vec<Manifest>, String> {
    let mut found = Vec::new();
    for source in sources {
        for document in serde_norway::Deserializer::from_str(&source.text) {
            let object =
                Value::deserialize(document).map_err(|why| format!("{}: not YAML: {why}", source.file))?;
            collect(&source.file, object, &mut found);
        }
    }
    match found.is_empty() {
        true => Err("there is no object in these files".to_owned()),
        false => Ok(found),
    }
}

fn collect(file: &str, mut object: Value, into: &mut Vec<Manifest>) {
    if object.is_null() {
        return;
    }
    if object["kind"] != "List" {
        return into.push(Manifest { file: file.to_owned(), object });
    }
    for item in object["items"].as_array_mut().into_iter().flatten() {
        collect(file, item.take(), into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists_become_objects() {
        let text = "kind: A\n---\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n".to_owned();
        let found = parse(&[Source { file: "x.yaml".to_owned(), text }]).expect("parses");
        let kinds: Vec<_> = found.iter().filter_map(|m| m.object["kind"].as_str()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn a_file_that_is_not_yaml_is_named() {
        let bad = Source { file: "x.yaml".to_owned(), text: "a: [".to_owned() };
        assert!(parse(&[bad]).expect_err("broken").starts_with("x.yaml: not YAML"));
    }

    #[test]
    fn users_may_type_kinds_as_they_like() {
        for word in ["HTTPRoute", "httproute", "httproutes"] {
            assert_eq!(Key::from_words(word, "shop/split"), Ok(Key::new("HTTPRoute", "shop", "split")));
        }
        assert_eq!(Key::from_words("ns", "shop"), Ok(Key::new("Namespace", "", "shop")));
        assert!(Key::from_words("deployment", "a/b").is_err());
    }
}
