//! Which of the kinds that a cluster may lack are served, and under which version: those of custom resources, which come
//! and go, and ServiceCIDRs, which old clusters do not have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList};
use kube::core::ApiResource;
use kube::{Client, Error};

use crate::object::Kind;

/// The versions of a group that the mesh can read, the best first. The schemas are the same for all that it uses.
const VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];

/// The kinds that a cluster may lack.
pub fn optional() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| matches!(kind, Kind::Route(_) | Kind::ServiceCidr))
}

/// Asks the API server which of the optional kinds it serves.
pub async fn served(client: &Client) -> Result<BTreeMap<Kind, ApiResource>, Error> {
    let mut found = BTreeMap::new();
    let mut groups: Vec<&str> = optional().map(Kind::group).collect();
    groups.dedup();
    let present = client.list_api_groups().await?;
    for group in groups {
        for version in versions(&present, group) {
            let list = client.list_api_group_resources(&format!("{group}/{version}")).await;
            choose(group, version, &absent_is_empty(list)?, &mut found);
        }
    }
    Ok(found)
}

/// Whether the API server has a group in a version.
pub async fn has(client: &Client, group: &str, version: &str) -> Result<bool, Error> {
    let present = client.list_api_groups().await?;
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
}
