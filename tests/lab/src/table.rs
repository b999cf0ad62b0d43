//! `lab ps` for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The answer to `ps` as tables.
pub fn table(ps: &Value) -> String {
    let mut out = String::new();
    let control = &ps["control"];
    let pid = control["pid"].as_i64().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let _ = writeln!(out, "world {}: control plane {}{pid}\n", text(&ps["world"]), text(&control["state"]));
    let header = ["NAMESPACE", "POD", "STATE", "MESHED", "IP", "RESTARTS", "CONTAINERS"].map(str::to_owned);
    let pods = list(&ps["pods"]).map(pod_row);
    out.push_str(&columns(&std::iter::once(header.to_vec()).chain(pods).collect::<Vec<_>>()));
    let header = ["NAMESPACE", "SERVICE", "CLUSTER IP", "PORTS"].map(str::to_owned);
    let services = list(&ps["services"]).map(service_row);
    let _ =
        write!(out, "\n{}", columns(&std::iter::once(header.to_vec()).chain(services).collect::<Vec<_>>()));
    out
}

fn pod_row(pod: &Value) -> Vec<String> {
    let state = match (pod["terminating"] == true, pod["ready"] == true, text(&pod["phase"])) {
        (true, _, _) => "Terminating".to_owned(),
        (_, true, _) => "Ready".to_owned(),
        (_, _, phase) if text(&pod["message"]).is_empty() => phase,
        (_, _, phase) => format!("{phase} ({})", text(&pod["message"])),
    };
    let containers = list(&pod["containers"]).map(|c| match c["pid"].as_i64() {
        Some(pid) => format!("{}:{pid}", text(&c["name"])),
        None => format!("{}:{}", text(&c["name"]), text(&c["state"])),
    });
    let restarts: i64 = list(&pod["containers"]).filter_map(|c| c["restarts"].as_i64()).sum();
    vec![
        text(&pod["namespace"]),
        text(&pod["name"]),
        state,
        if pod["meshed"] == true { "yes" } else { "no" }.to_owned(),
        list(&pod["ips"]).next().map(text).unwrap_or_default(),
        restarts.to_string(),
        containers.collect::<Vec<_>>().join(" "),
    ]
}

fn service_row(service: &Value) -> Vec<String> {
    let ports = list(&service["ports"]).map(|p| format!("{}/{}", p["port"], text(&p["protocol"])));
    vec![
        text(&service["namespace"]),
        text(&service["name"]),
        list(&service["clusterIPs"]).map(text).collect::<Vec<_>>().join(","),
        ports.collect::<Vec<_>>().join(","),
    ]
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&rows), "A     B\nlong  x\n");
    }
}
