use super::*;

fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
    let pairs = annotations.iter().map(|(name, value)| (format!("heddle.dev/{name}"), (*value).to_owned()));
    ObjectMeta { annotations: Some(pairs.collect()), ..ObjectMeta::default() }
}

#[track_caller]
fn check(name: &str, value: &str, allowed: &str) {
    let errors = Settings::of(&meta(&[(name, value)]), None).unwrap_err();
    assert_eq!(errors.len(), 1);
    let text = errors[0].to_string();
    assert!(text.contains(&format!("heddle.dev/{name}")) && text.contains(allowed), "{text}");
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(Settings::of(&ObjectMeta::default(), None), Ok(Settings::default()));
}

#[test]
fn every_annotation_is_read() {
    let pod = meta(&[
        ("skip-inbound-ports", "22"),
        ("skip-outbound-ports", "3306,5000-5100"),
        ("skip-outbound-cidrs", "10.0.0.0/8, fd00::1"),
        ("opaque-ports", "6379"),
        ("plaintext-inbound-ports", "9090"),
        ("proxy-cpu-request", "100m"),
        ("proxy-cpu-limit", "1.5"),
        ("proxy-memory-request", "32Mi"),
        ("proxy-memory-limit", "64Mi"),
        ("log-level", "warn,heddle_proxy=debug"),
        ("access-log", "errors"),
        ("drain-seconds", "30"),
    ]);
    let settings = Settings::of(&pod, None).unwrap();
    assert!(settings.skip_outbound_ports.contains(5050) && settings.opaque_ports.contains(6379));
    assert_eq!(settings.skip_outbound_cidrs.len(), 2);
    assert_eq!((settings.access_log, settings.drain_seconds), (AccessLog::Errors, Some(30)));
    assert_eq!(settings.proxy_cpu_limit.as_deref(), Some("1.5"));
}

#[test]
fn the_pods_annotation_wins_over_the_namespaces() {
    let namespace = meta(&[("opaque-ports", "1"), ("skip-inbound-ports", "2"), ("mtls-mode", "strict")]);
    let settings = Settings::of(&meta(&[("opaque-ports", "3")]), Some(&namespace)).unwrap();
    assert_eq!(
        (settings.opaque_ports.to_string(), settings.skip_inbound_ports.to_string()),
        ("3".into(), "2".into())
    );
    assert_eq!(settings.mtls_mode, Some(MtlsMode::Strict));
}

#[test]
fn a_pod_does_not_choose_its_mode() {
    check("mtls-mode", "permissive", "belongs on the Namespace");
}

#[test]
fn what_cannot_be_obeyed_is_an_error() {
    check("opaque-ports", "http", "3306,5000-5100");
    check("skip-outbound-cidrs", "10.0.0.0/33", "CIDRs");
    check("proxy-cpu-request", "much", "quantity");
    check("proxy-cpu-request", "-1", "quantity");
    check("log-level", "", "level");
    check("access-log", "yes", "off, errors or all");
    check("drain-seconds", "-1", "whole seconds");
    check("skip-ports", "1", "no such annotation");
    check("inject", "enabled", "label");
    check("meshed", "true", "no such annotation");
}

#[test]
fn all_errors_are_told_at_once() {
    let namespace = meta(&[("mtls-mode", "maybe")]);
    let errors =
        Settings::of(&meta(&[("opaque-ports", "x"), ("access-log", "y")]), Some(&namespace)).unwrap_err();
    assert_eq!(errors.len(), 3);
}

#[test]
fn others_annotations_are_not_ours() {
    let mut pod = meta(&[]);
    pod.annotations = Some([("example.com/opaque-ports".to_owned(), "x".to_owned())].into());
    assert_eq!(Settings::of(&pod, None), Ok(Settings::default()));
}
