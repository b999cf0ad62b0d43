use super::*;

#[track_caller]
fn parse(target: &str) -> Query {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Query::parse(path, query).unwrap()
}

#[track_caller]
fn check_refused(target: &str, code: u16) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    assert_eq!(Query::parse(path, query).unwrap_err().code.as_u16(), code, "{target}");
}

#[test]
fn a_path_names_kind_namespace_and_object() {
    let query = parse("/api/v1/namespaces/shop/services/web");
    assert_eq!((query.kind, query.namespace.as_deref()), (Kind::Service, Some("shop")));
    assert_eq!((query.selector, query.mode), (Selector::Name("web".into()), Mode::Get));
    let query = parse("/apis/gateway.networking.k8s.io/v1alpha2/namespaces/shop/tcproutes");
    assert_eq!(query.api_version, "gateway.networking.k8s.io/v1alpha2");
    assert_eq!((query.selector, query.mode), (Selector::All, Mode::List));
    assert_eq!(parse("/api/v1/namespaces/shop").kind, Kind::Namespace);
}

#[test]
fn objects_are_found_by_address_and_by_service() {
    let address = "10.96.0.5".parse().unwrap();
    let query = parse("/api/v1/services?fieldSelector=spec.clusterIPs%3D10.96.0.5");
    assert_eq!(query.selector, Selector::ServiceAt(address));
    let query = parse("/api/v1/pods?fieldSelector=status.podIPs=10.96.0.5");
    assert_eq!(query.selector, Selector::Linked(Link::PodAddress(address)));
    let query = parse("/api/v1/pods?fieldSelector=heddle.dev/service=shop/web");
    assert_eq!(query.selector, Selector::PodsOf(ObjectName::new("shop", "web")));
}

#[test]
fn a_watch_begins_as_kube_asks_for_it() {
    let start = |parameters: &str| match parse(&format!("/api/v1/namespaces/shop/pods?{parameters}")).mode {
        Mode::Watch(options) => options,
        Mode::Get | Mode::List => panic!("no watch"),
    };
    let streaming = start(
        "&watch=true&timeoutSeconds=290&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0",
    );
    assert_eq!(streaming.start, Start::PresentThenBookmark);
    assert_eq!(streaming.timeout, Duration::from_secs(290));
    assert_eq!(start("watch=1&resourceVersion=0").start, Start::Present);
    assert_eq!(start("watch=1&resourceVersion=17").start, Start::After(17));
    assert!(!start("watch=1").bookmarks);
}

#[test]
fn label_selectors_are_equalities() {
    let target = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    assert_eq!(parse(target).labels, [("kubernetes.io/service-name".to_owned(), "web".to_owned())]);
    check_refused("/api/v1/namespaces/shop/pods?labelSelector=app!=web", 400);
    check_refused("/api/v1/namespaces/shop/pods?labelSelector=app", 400);
}

#[test]
fn the_slices_of_a_service_are_found_without_going_through_their_namespace() {
    let slices = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    let of_web = Selector::Linked(Link::SliceOf(ObjectName::new("shop", "web")));
    assert_eq!(parse(&format!("{slices}?labelSelector=kubernetes.io/service-name=web")).selector, of_web);
    let query = parse(&format!("{slices}?labelSelector=a=b,kubernetes.io/service-name=web"));
    assert_eq!((query.selector, query.labels.len()), (of_web, 2));
    assert_eq!(parse(&format!("{slices}?labelSelector=a=b")).selector, Selector::All);
    let pods = parse("/api/v1/namespaces/shop/pods?labelSelector=kubernetes.io/service-name=web");
    assert_eq!(pods.selector, Selector::All);
    check_refused(
        "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name=web",
        403,
    );
}

#[test]
fn nobody_reads_the_whole_cluster() {
    check_refused("/api/v1/services", 403);
    check_refused("/api/v1/pods?watch=1", 403);
    check_refused("/api/v1/namespaces", 403);
    check_refused("/api/v1/pods?fieldSelector=metadata.name=web", 400);
}

#[test]
fn secrets_and_nodes_are_never_served() {
    check_refused("/api/v1/namespaces/shop/secrets/key", 404);
    check_refused("/api/v1/secrets", 404);
    check_refused("/api/v1/nodes?fieldSelector=metadata.name=a", 403);
}

#[test]
fn some_kinds_are_served_by_name_alone() {
    assert_eq!(parse("/api/v1/namespaces/shop/configmaps/bundle").mode, Mode::Get);
    check_refused("/api/v1/namespaces/shop/configmaps", 403);
    check_refused("/api/v1/namespaces/shop/serviceaccounts?watch=1", 403);
}

#[test]
fn what_others_keep_in_their_namespace_is_not_served() {
    for plural in ["configmaps", "serviceaccounts"] {
        let query = parse(&format!("/api/v1/namespaces/shop/{plural}/web"));
        assert_eq!(query.allowed_to("shop"), Ok(()));
        assert_eq!(query.allowed_to("other").unwrap_err().code, StatusCode::FORBIDDEN);
    }
    assert_eq!(parse("/api/v1/namespaces/shop/services/web").allowed_to("other"), Ok(()));
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    for target in [
        "/",
        "/api",
        "/api/v2/pods",
        "/api/v1/namespaces//pods",
        "/api/v1/namespaces/shop/pods/",
        "/api/v1/pods/web",
    ] {
        check_refused(target, 404);
    }
    check_refused("/api/v1/pods?fieldSelector=status.podIPs=web", 400);
    check_refused("/api/v1/services?fieldSelector=spec.type=NodePort", 400);
    check_refused("/api/v1/namespaces/shop/pods?watch=1&resourceVersion=new", 400);
    check_refused("/api/v1/namespaces/shop/pods?watch=1&sendInitialEvents=true", 400);
}
