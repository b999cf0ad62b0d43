//! Where Pod Security will refuse an injected pod: the user gets to know it with the label that decides.

use k8s_openapi::api::core::v1::Namespace;

/// What decides on the pods of a namespace.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// What to tell the author of a pod in `namespace`.
pub fn warnings(namespace: &str, object: Option<&Namespace>) -> Vec<String> {
    let labels = object.and_then(|object| object.metadata.labels.as_ref());
    let level = labels.and_then(|labels| labels.get(ENFORCE)).map(String::as_str);
    let refusing = level.filter(|level| matches!(*level, "baseline" | "restricted"));
    let warning = |level| {
        format!(
            "namespace {namespace} has the label {ENFORCE}: {level}, by which Pod Security refuses meshed pods: their \
             init container needs NET_ADMIN and NET_RAW; label the namespace {ENFORCE}: privileged"
        )
    };
    refusing.map(warning).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(level: &str, warned: bool) {
        let namespace = json!({"metadata": {"name": "shop", "labels": {ENFORCE: level}}});
        let warnings = warnings("shop", Some(&serde_json::from_value(namespace).unwrap()));
        assert_eq!(warnings.len(), usize::from(warned));
        assert!(warnings.iter().all(|warning| warning.contains(&format!("{ENFORCE}: {level}"))));
    }

    #[test]
    fn levels_that_refuse_the_init_container_are_named() {
        check("restricted", true);
        check("baseline", true);
        check("privileged", false);
    }
}
