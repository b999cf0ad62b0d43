//! The text of one manifest file, read document by document.
//!
//! A broken document must not cost the others, so each has an outcome of its own.

use serde::Deserialize;
use serde_json::Value;

use crate::object::{Key, Kind};

/// Whether a file's text is JSON or YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.json`, one or several values.
    Json,
    /// `.yaml` and `.yml`, one or several documents.
    Yaml,
}

/// What one document says.
#[derive(Debug, PartialEq)]
pub enum Document {
    /// An object of a kind that the mesh uses.
    Object(Key, Value),
    /// Nothing for the mesh: an empty document, or a kind that it has no use for.
    Other,
    /// Not an object. The text says why.
    Broken(String),
}

/// Reads every document of `text`; broken syntax ends it, since nothing after it can be trusted.
pub fn read(text: &str, format: Format) -> Vec<Document> {
    let mut documents = Vec::new();
    for value in values(text, format) {
        match value {
            Ok(value) => expand(value, &mut documents),
            Err(reason) => {
                documents.push(Document::Broken(reason));
                break;
            }
        }
    }
    documents
}

type Values<'t> = Box<dyn Iterator<Item = Result<Value, String>> + 't>;

fn values(text: &str, format: Format) -> Values<'_> {
    match format {
        Format::Json => Box::new(
            serde_json::Deserializer::from_str(text)
                .into_iter::<Value>()
                .map(|value| value.map_err(|error| error.to_string())),
        ),
        Format::Yaml => Box::new(
            serde_norway::Deserializer::from_str(text)
                .map(|document| Value::deserialize(document).map_err(|error| error.to_string())),
        ),
    }
}

/// A `List`, as `kubectl get -o yaml` writes it, stands for its items.
fn expand(mut value: Value, documents: &mut Vec<Document>) {
    let is_list = value["kind"] == "List" && value["apiVersion"] == "v1";
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => documents.extend(items.into_iter().map(document)),
        Some(items) => {
            value["items"] = items;
            documents.push(document(value));
        }
        None => documents.push(document(value)),
    }
}

fn document(value: Value) -> Document {
    if value.is_null() {
        return Document::Other;
    }
    match key(&value) {
        Ok(Some(key)) => Document::Object(key, value),
        Ok(None) => Document::Other,
        Err(reason) => Document::Broken(reason),
    }
}

fn key(value: &Value) -> Result<Option<Key>, String> {
    let api_version = text(value, "apiVersion").ok_or("it has no apiVersion")?;
    let kind = text(value, "kind").ok_or("it has no kind")?;
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = Kind::of(group, kind) else { return Ok(None) };
    let metadata = &value["metadata"];
    let name = text(metadata, "name").ok_or_else(|| format!("the {} has no metadata.name", kind.as_str()))?;
    let namespace = match kind.namespaced() {
        true => text(metadata, "namespace").unwrap_or("default"),
        false => "",
    };
    check_name(kind, namespace, name)?;
    Ok(Some(Key::new(kind, namespace, name)))
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field)?.as_str()
}

/// Names are what the API server would accept: they end up in identities, paths and metrics.
fn check_name(kind: Kind, namespace: &str, name: &str) -> Result<(), String> {
    let is_dns = |text: &str, longest: usize, dots: bool| {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || (dots && byte == b'.')
        };
        !text.is_empty() && text.len() <= longest && text.bytes().all(allowed)
    };
    if kind.namespaced() && !is_dns(namespace, 63, false) {
        return Err(format!(
            "{namespace:?} is not a namespace's name: lower-case letters, digits and -, at most 63"
        ));
    }
    if !is_dns(name, 253, true) {
        return Err(format!("{name:?} is not a name: lower-case letters, digits, - and ., at most 253"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = read(text, Format::Yaml)
            .into_iter()
            .map(|document| match document {
                Document::Object(key, _) => key.to_string(),
                Document::Other => "other".to_owned(),
                Document::Broken(reason) => format!("broken: {reason}"),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_holds_several_documents() {
        check(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n---\n\
             apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {name: web-0}\n",
            &["Service shop/web", "Namespace shop", "Pod default/web-0"],
        );
    }

    #[test]
    fn a_list_stands_for_its_items() {
        check(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: web}\n",
            &["Service default/web"],
        );
    }

    #[test]
    fn a_secret_is_never_taken() {
        check("apiVersion: v1\nkind: Secret\nmetadata: {name: key}\n", &["other"]);
    }

    #[test]
    fn a_kind_of_another_group_is_another_kind() {
        check("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\n", &["other"]);
    }

    #[test]
    fn a_broken_document_does_not_cost_the_others() {
        check(
            "kind: Service\n---\napiVersion: v1\nkind: Service\nmetadata: {name: Web}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: web}\n",
            &[
                "broken: it has no apiVersion",
                "broken: \"Web\" is not a name: lower-case letters, digits, - and ., at most 253",
                "Service default/web",
            ],
        );
    }

    #[test]
    fn json_is_read_too() {
        let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}"#;
        assert_eq!(read(text, Format::Json).len(), 2);
        assert!(matches!(read("{", Format::Json).as_slice(), [Document::Broken(_)]));
    }
}
