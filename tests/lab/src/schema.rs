//! Which fields the lab honours: `schema.txt`, expanded once. A field that is not listed is refused by its path, so
//! that no manifest is half obeyed in silence.

use std::sync::LazyLock;

use serde_json::Value;

const TEXT: &str = include_str!("schema.txt");

static LINES: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let mut section = "";
    let mut lines = Vec::new();
    for line in TEXT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) => section = name,
            None => lines.push((section, line)),
        }
    }
    lines
});

/// The path of the first field of an object that the lab does not honour.
pub fn first_unsupported(kind: &str, object: &Value) -> Option<String> {
    let allowed = allowed(kind);
    walk(object, &mut Vec::new(), &allowed)
}

/// All patterns of a kind, in full.
fn allowed(kind: &str) -> Vec<String> {
    let mut found: Vec<String> = section("*").chain(section(kind)).map(str::to_owned).collect();
    if kind == "Pod" {
        for line in section("CONTAINER").flat_map(expand) {
            found.push(format!("spec.containers[].{line}"));
            found.push(format!("spec.initContainers[].{line}"));
        }
    }
    found
}

fn section(name: &str) -> impl Iterator<Item = &'static str> {
    LINES.iter().filter(move |(s, _)| s.split(' ').any(|word| word == name)).map(|(_, line)| *line)
}

/// `livenessProbe.PROBE` stands for a line per field of a probe.
fn expand(line: &'static str) -> Vec<String> {
    match line.rsplit_once('.') {
        Some((stem, name @ ("PROBE" | "HANDLER"))) => section(name).map(|f| format!("{stem}.{f}")).collect(),
        _ => vec![line.to_owned()],
    }
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

fn walk<'a>(value: &'a Value, path: &mut Vec<Step<'a>>, allowed: &[String]) -> Option<String> {
    if !path.is_empty() && !covered(&pattern(path, true), allowed) {
        return Some(pattern(path, false));
    }
    let step_into = |step, child, path: &mut Vec<Step<'a>>| {
        path.push(step);
        let found = walk(child, path, allowed);
        path.pop();
        found
    };
    match value {
        Value::Object(fields) => {
            fields.iter().find_map(|(name, child)| step_into(Step::Field(name), child, path))
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, child)| step_into(Step::Item(i), child, path))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Whether a pattern is listed, lies under a `.*`, or leads to something listed.
fn covered(pattern: &str, allowed: &[String]) -> bool {
    let leads = |line: &str, to: &str| line.strip_prefix(to).is_some_and(|rest| rest.starts_with(['.', '[']));
    allowed.iter().any(|line| match line.strip_suffix(".*") {
        Some(open) => pattern == open || leads(pattern, open) || leads(open, pattern),
        None => line == pattern || leads(line, pattern),
    })
}

fn pattern(path: &[Step<'_>], any_index: bool) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.extend([".", name]),
            Step::Item(_) if any_index => text.push_str("[]"),
            Step::Item(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: &str, yaml: &str, expected: Option<&str>) {
        let object: Value = serde_norway::from_str(yaml).expect("yaml");
        assert_eq!(first_unsupported(kind, &object).as_deref(), expected);
    }

    #[test]
    fn an_unsupported_field_is_named_by_its_path() {
        let pod = "spec: {containers: [{name: a, command: [x]}, {name: b, volumeDevices: []}]}";
        check("Pod", pod, Some("spec.containers[1].volumeDevices"));
        check("Pod", "spec: {nodeSelector: {a: b}}", Some("spec.nodeSelector"));
        check("Service", "spec: {type: ClusterIP, loadBalancerIP: x}", Some("spec.loadBalancerIP"));
        check("ConfigMap", "dta: {}", Some("dta"));
    }

    #[test]
    fn what_is_honoured_passes() {
        check(
            "Pod",
            "spec: {containers: [{livenessProbe: {httpGet: {port: 1, path: /}, periodSeconds: 1}}]}",
            None,
        );
        check(
            "Pod",
            "spec: {initContainers: [{restartPolicy: Always, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}",
            None,
        );
        check("HTTPRoute", "spec: {anything: [{goes: here}]}", None);
        check("ConfigMap", "data: {a.b/c: x}\nmetadata: {labels: {a.b/c: d}}", None);
    }

    #[test]
    fn a_prefix_of_a_name_is_not_that_name() {
        check("Pod", "spec: {containers: [{nam: a}]}", Some("spec.containers[0].nam"));
    }
}
