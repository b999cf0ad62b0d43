//! Which of the kinds that a cluster may lack are served, and under which version: those of custom resources, which come
//! and go, and ServiceCIDRs, which old clusters do not have.
//!
//! That a kind is not served proves nothing: an API server that has just begun serves custom resources only when it has read
//! their definitions. A kind is gone when its definition is.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use kube::core::{ApiResource, DynamicObject, Status};
use kube::{Api, Client, Error};
use serde_json::Value;

use super::in_time;
use crate::object::Kind;

/// The versions of a group that the mesh can read, the best first. The schemas are the same for all that it uses.
const VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];

/// The optional kinds, as one look found them.
#[derive(Debug, Default)]
pub struct Kinds {
    /// Those that are served.
    pub served: BTreeMap<Kind, ApiResource>,
    /// Those that are not, though their definitions are there: they will be.
    pub awaited: BTreeSet<Kind>,
    /// Those that are not, and of which we may not know whether they will be.
    pub unknown: BTreeSet<Kind>,
}

impl Kinds {
    /// Whether a kind is gone: its definition is. One that no definition brings is as lasting as the API server, of which
    /// several may run in two versions while they are upgraded.
    pub fn is_gone(&self, kind: Kind) -> bool {
        let may_be = [&self.awaited, &self.unknown].iter().any(|kinds| kinds.contains(&kind));
        definition(kind).is_some() && !self.served.contains_key(&kind) && !may_be
    }
}

/// The kinds that a cluster may lack.
fn optional() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| matches!(kind, Kind::Route(_) | Kind::ServiceCidr))
}

/// The name of the definition that brings a kind, if it is a custom resource.
fn definition(kind: Kind) -> Option<String> {
    matches!(kind, Kind::Route(_)).then(|| format!("{}.{}", kind.plural(), kind.group()))
}

/// Asks the API server for the optional kinds.
pub async fn kinds(client: &Client) -> Result<Kinds, Error> {
    let served = served(client).await?;
    let absent = optional().filter(|kind| !served.contains_key(kind));
    let absent: Vec<(Kind, String)> = absent.filter_map(|kind| Some((kind, definition(kind)?))).collect();
    let (mut awaited, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for (kind, definition) in absent {
        match is_defined(client, &definition).await? {
            Some(true) => drop(awaited.insert(kind)),
            Some(false) => {}
            None => drop(unknown.insert(kind)),
        }
    }
    Ok(Kinds { served, awaited, unknown })
}

/// Whether a definition is one that brings an optional kind.
pub fn is_optional(name: &str) -> bool {
    optional().filter_map(definition).any(|definition| definition == name)
}

async fn served(client: &Client) -> Result<BTreeMap<Kind, ApiResource>, Error> {
    let mut found = BTreeMap::new();
    let mut groups: Vec<&str> = optional().map(Kind::group).collect();
    groups.dedup();
    let present = in_time(client.list_api_groups()).await?;
    for group in groups {
        for version in versions(&present, group) {
            let list = in_time(client.list_api_group_resources(&format!("{group}/{version}"))).await;
            choose(group, version, &absent_is_empty(list)?, &mut found);
        }
    }
    Ok(found)
}

/// Whether the definition of that name is there, and brings its kind; nothing if we may not ask. Definitions are large, and
/// only asked for where the kind is missing.
async fn is_defined(client: &Client, name: &str) -> Result<Option<bool>, Error> {
    let resource = ApiResource::erase::<CustomResourceDefinition>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match in_time(api.get(name)).await {
        Ok(definition) => Ok(Some(brings(&definition))),
        Err(Error::Api(status)) if is_absent(&status, name) => Ok(Some(false)),
        Err(Error::Api(status)) if status.code == 403 => {
            tracing::warn!(
                "may not get the definition {name}: grant get on customresourcedefinitions, as the chart does"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether a definition brings its kind in a version that the mesh can read. One whose names are another's never does.
fn brings(definition: &DynamicObject) -> bool {
    let established = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
    let readable = |version: &Value| {
        version["served"] == true && VERSIONS.into_iter().any(|known| version["name"] == known)
    };
    let mut conditions = definition.data["status"]["conditions"].as_array().into_iter().flatten();
    let mut versions = definition.data["spec"]["versions"].as_array().into_iter().flatten();
    conditions.any(established) && versions.any(readable)
}

/// Whether the API server says of the object `name` that it is not there. A 404 that names none says only that the API
/// server does not serve such objects, or not yet.
pub fn is_absent(status: &Status, name: &str) -> bool {
    status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
}

/// Whether the API server has a group in a version.
pub async fn has(client: &Client, group: &str, version: &str) -> Result<bool, Error> {
    let present = in_time(client.list_api_groups()).await?;
    let mut groups = present.groups.iter().filter(|known| known.name == group);
    Ok(groups.any(|known| known.versions.iter().any(|known| known.version == version)))
}

/// The versions of a group that are served, the best first; none if there is no such group.
fn versions(present: &APIGroupList, group: &str) -> Vec<&'static str> {
    let Some(served) = present.groups.iter().find(|known| known.name == group) else { return Vec::new() };
    let is_served = |version: &&str| served.versions.iter().any(|known| known.version == *version);
    VERSIONS.into_iter().filter(is_served).collect()
}

/// A version can go between two questions.
fn absent_is_empty(list: Result<APIResourceList, Error>) -> Result<APIResourceList, Error> {
    match list {
        Err(Error::Api(status)) if status.code == 404 => Ok(APIResourceList::default()),
        outcome => outcome,
    }
}

/// Takes the kinds of a version that no better one had.
fn choose(group: &str, version: &str, list: &APIResourceList, found: &mut BTreeMap<Kind, ApiResource>) {
    for kind in optional().filter(|kind| kind.group() == group) {
        let watched = |verbs: &[String]| verbs.iter().any(|verb| verb == "watch");
        let mut resources = list.resources.iter();
        if resources.any(|resource| resource.name == kind.plural() && watched(&resource.verbs)) {
            found.entry(kind).or_insert_with(|| resource(kind, version));
        }
    }
}

/// A kind under a version of its group.
pub fn resource(kind: Kind, version: &str) -> ApiResource {
    let group = kind.group().to_owned();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let (kind, plural) = (kind.as_str().to_owned(), kind.plural().to_owned());
    ApiResource { group, version: version.to_owned(), api_version, kind, plural }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
    use mesh::route::RouteKind;
    use serde_json::json;

    const HTTP: Kind = Kind::Route(RouteKind::Http);

    fn list(names: &[&str]) -> APIResourceList {
        let resource = |name: &&str| APIResource {
            name: (*name).to_owned(),
            verbs: vec!["get".to_owned(), "watch".to_owned()],
            ..APIResource::default()
        };
        APIResourceList { resources: names.iter().map(resource).collect(), ..APIResourceList::default() }
    }

    #[test]
    fn each_kind_is_followed_under_its_best_version() {
        let mut found = BTreeMap::new();
        let group = "gateway.networking.k8s.io";
        choose(group, "v1", &list(&["httproutes", "httproutes/status", "gateways"]), &mut found);
        choose(group, "v1alpha2", &list(&["httproutes", "tcproutes"]), &mut found);
        let versions: Vec<_> =
            found.iter().map(|(kind, resource)| (*kind, resource.version.as_str())).collect();
        assert_eq!(
            versions,
            [(Kind::Route(RouteKind::Http), "v1"), (Kind::Route(RouteKind::Tcp), "v1alpha2")]
        );
    }

    #[test]
    fn a_kind_is_gone_with_its_definition_and_not_before() {
        let mut kinds = Kinds::default();
        assert!(kinds.is_gone(HTTP));
        kinds.awaited.insert(HTTP);
        assert!(!kinds.is_gone(HTTP));
        let served = BTreeMap::from([(HTTP, resource(HTTP, "v1"))]);
        assert!(!Kinds { served, ..Kinds::default() }.is_gone(HTTP));
    }

    #[test]
    fn a_kind_without_a_definition_never_goes() {
        assert!(!Kinds::default().is_gone(Kind::ServiceCidr));
    }

    #[track_caller]
    fn check_brings(established: &str, version: &str, served: bool, expected: bool) {
        let definition = serde_json::from_value(json!({
            "metadata": {"name": "httproutes.gateway.networking.k8s.io"},
            "spec": {"versions": [{"name": "v9", "served": true}, {"name": version, "served": served}]},
            "status": {"conditions": [{"type": "Established", "status": established}]},
        }));
        assert_eq!(brings(&definition.unwrap()), expected);
    }

    #[test]
    fn a_definition_that_brings_nothing_readable_is_not_waited_for() {
        check_brings("True", "v1", true, true);
        check_brings("True", "v1", false, false);
        check_brings("True", "v8", true, false);
        check_brings("False", "v1", true, false);
    }

    #[test]
    fn only_an_answer_that_names_it_says_that_an_object_is_absent() {
        let status = |code: u16, details: Value| -> Status {
            serde_json::from_value(json!({"code": code, "details": details})).unwrap()
        };
        assert!(is_absent(&status(404, json!({"name": "split"})), "split"));
        assert!(!is_absent(&status(404, json!({})), "split"));
        assert!(!is_absent(&status(404, json!(null)), "split"));
        assert!(!is_absent(&status(503, json!({"name": "split"})), "split"));
    }
}
