//! The report for people.

use std::fmt::Write as _;

use super::{Report, Target, mib};
use crate::changes::Delays;
use crate::plane::{Plane, Step};
use crate::proxy::{Proxy, Rules, Situation};

/// How the control plane was measured.
const PLANE: &str = "heddle-injector follows a directory of manifests with the whole cluster. Each simulated sidecar is what \
    heddle-proxy is to the control plane: a connection for its certificate and one for all else, TLS 1.3 without resumption, \
    a token of its own pod; it looks up five Services by their addresses, and watches them, their endpoints and pods, those \
    that their routes name, the routes of their namespaces, and its own pod, with kube's own watcher. All of them use one \
    Service, and that is what changes. They run on one thread of one process beside the control plane, which costs as much \
    as it does, so the times are those of a machine that is busy with both. A change of endpoints is held once the slice and \
    the new pod are known.";

/// How the sidecar was measured.
const PROXY: &str = "A client's and a server's pod in the lab. The client sends HTTP/1.1 over 64 connections as fast as it gets \
    answers, and what its own sidecar uses is counted, by the kernel's clock of that process. Rounds with little and with \
    much are made in turn, and each is compared with the one right before. Unused Services have endpoints, and a thousand of \
    them are in the client's own namespace. Rules are shared out among HTTPRoutes of 16, and only the last in precedence \
    matches what is asked for.";

impl Report {
    /// As Markdown.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# Heddle in a large cluster\n\nWritten by `make bench-scale` on {}. For machines the same is in \
             [scale.json](scale.json).\n",
            self.machine
        );
        table(&mut text, &["goal", "at most", "measured", ""]);
        for Target { what, measured, most } in self.targets() {
            let verdict = if measured <= most { "reached" } else { "missed" };
            line(&mut text, &format!("| {what} | {most} | {measured:.2} | {verdict} |"));
        }
        if let Some(plane) = &self.plane {
            plane_part(&mut text, plane);
        }
        if let Some(proxy) = &self.proxy {
            proxy_part(&mut text, proxy);
        }
        text
    }
}

fn plane_part(text: &mut String, plane: &Plane) {
    let Plane { services, endpoints, routes, sidecars, watches, faults, changes, .. } = plane;
    line(text, &format!("\n## The control plane\n\n{PLANE}\n"));
    line(
        text,
        &format!(
            "{services} Services, {endpoints} endpoints (each a meshed pod), {routes} HTTPRoutes, {sidecars} sidecars with \
             {watches} watches, of which {faults} broke off."
        ),
    );
    table(text, &["step", "s", "CPU s", "resident MiB", "peak MiB"]);
    let steps = [
        ("loads everything", plane.loading),
        ("all sidecars start", plane.starting),
        ("nothing changes", plane.idle),
        ("routes and endpoints change", plane.changing),
    ];
    for (what, Step { seconds, cpu_seconds, memory }) in steps {
        let (resident, peak) = (mib(memory.resident_kib), mib(memory.peak_kib));
        line(text, &format!("| {what} | {seconds:.1} | {cpu_seconds:.2} | {resident:.0} | {peak:.0} |"));
    }
    line(text, "\nFrom the rename of a changed file to the sidecars that hold the change, ms:");
    table(text, &["change of", "number", "first sidecar p50", "last sidecar p50", "p99", "max"]);
    let kinds = [("routes", &changes.routes), ("endpoints", &changes.endpoints), ("both", &changes.all)];
    for (what, Delays { first_ms, last_ms }) in kinds {
        let (count, first) = (last_ms.count, first_ms.p50);
        let (half, high, most) = (last_ms.p50, last_ms.p99, last_ms.max);
        line(text, &format!("| {what} | {count} | {first:.0} | {half:.0} | {high:.0} | {most:.0} |"));
    }
    let (own, others) = (changes.cpu_ms_each, changes.sidecars_cpu_ms_each);
    line(
        text,
        &format!(
            "\nEach change takes {own:.1} ms of the control plane's CPU, and {others:.1} ms of that of all sidecars together."
        ),
    );
}

fn proxy_part(text: &mut String, proxy: &Proxy) {
    let Proxy { unused_services, rules_counts: [few, many], unused, rules } = proxy;
    line(
        text,
        &format!(
            "\n## One sidecar\n\n{PROXY}\n\nCPU for each request: median of the rounds, least and most."
        ),
    );
    table(text, &["", "CPU µs", "requests/s", "resident KiB, first round", "most"]);
    let mut row = |what: &str, Situation { cpu_us, rate, first_kib, most_kib }: &Situation| {
        let (half, least, most, rate) = (cpu_us.p50, cpu_us.min, cpu_us.max, rate.p50);
        let cpu = format!("{half:.2} ({least:.2} – {most:.2})");
        line(text, &format!("| {what} | {cpu} | {rate:.0} | {first_kib} | {most_kib} |"));
    };
    row("no unused Services", &unused.little);
    row(&format!("{unused_services} unused Services"), &unused.much);
    for Rules { matching, pair } in rules {
        row(&format!("{few} rules, {matching}"), &pair.little);
        row(&format!("{many} rules, {matching}"), &pair.much);
    }
}

/// The head of a table.
fn table(text: &mut String, columns: &[&str]) {
    line(text, &format!("\n| {} |", columns.join(" | ")));
    line(text, &format!("|{}", " --- |".repeat(columns.len())));
}

fn line(text: &mut String, line: &str) {
    // Writing into a text cannot fail.
    let _ = writeln!(text, "{line}");
}
