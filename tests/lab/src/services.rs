//! Completes Services as an API server does: cluster addresses of both families, ports' defaults. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// The first number that is given within the Service ranges; those below are for manifests that choose their own.
const FIRST: u16 = 256;

/// Gives a Service what its manifest leaves open. `old` is the same Service before, whose addresses it keeps; `taken`
/// are all other Services' addresses.
pub fn complete(service: &mut Value, old: Option<&Value>, taken: &BTreeSet<IpAddr>) -> Result<(), String> {
    let spec = &mut service["spec"];
    spec["type"] = json!("ClusterIP");
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let number = port["port"].clone();
        set_default(port, "protocol", json!("TCP"));
        set_default(port, "targetPort", number);
    }
    let own = written(spec);
    if spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None" {
        set_default(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
        (spec["clusterIP"], spec["clusterIPs"]) = (json!("None"), json!(["None"]));
        return Ok(());
    }
    let families = families(spec, &own);
    let before = old.map(|old| written(&old["spec"])).unwrap_or_default();
    let mut ips = Vec::new();
    for family in &families {
        let fits = |ip: &&IpAddr| ip.is_ipv6() == (family == "IPv6");
        let kept = own.iter().find(fits).or_else(|| before.iter().find(fits)).copied();
        let ip = kept.or_else(|| free(family, taken)).ok_or("there is no free cluster address left")?;
        if taken.contains(&ip) {
            return Err(format!("spec.clusterIP: {ip} is another Service's"));
        }
        ips.push(ip.to_string());
    }
    spec["ipFamilies"] = json!(families);
    spec["ipFamilyPolicy"] = json!(if families.len() > 1 { "RequireDualStack" } else { "SingleStack" });
    spec["clusterIP"] = json!(ips.first());
    spec["clusterIPs"] = json!(ips);
    Ok(())
}

/// The cluster addresses that a Service's spec names.
pub fn written(spec: &Value) -> Vec<IpAddr> {
    let list = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    let one = spec["clusterIP"].clone();
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in std::iter::once(one).chain(list).filter_map(|ip| ip.as_str()?.parse().ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// Both families, unless the manifest wants one; its own address's family comes first.
fn families(spec: &Value, own: &[IpAddr]) -> Vec<String> {
    let asked: Vec<String> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    let first = if own.first().is_some_and(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    if !asked.is_empty() {
        return asked;
    }
    if spec["ipFamilyPolicy"] == "SingleStack" {
        return vec![first.to_owned()];
    }
    let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
    vec![first.to_owned(), second.to_owned()]
}

fn free(family: &str, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let nth = |n: u16| -> IpAddr {
        let [high, low] = n.to_be_bytes();
        match family {
            "IPv6" => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n).into(),
            _ => Ipv4Addr::new(10, 96, high, low).into(),
        }
    };
    (FIRST..u16::MAX).map(nth).find(|ip| !taken.contains(ip))
}

fn set_default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, old: Option<&str>, taken: &[&str], expected: Result<&[&str], &str>) {
        let parse = |spec: &str| -> Value {
            serde_norway::from_str(&format!("spec: {{ports: [{{port: 80}}], {spec}}}")).expect("yaml")
        };
        let taken = taken.iter().map(|ip| ip.parse().expect("an address")).collect();
        let mut service = parse(spec);
        let done = complete(&mut service, old.map(parse).as_ref(), &taken);
        match expected {
            Ok(ips) => {
                assert_eq!(done, Ok(()));
                assert_eq!(service["spec"]["clusterIPs"], json!(ips));
                assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
            }
            Err(part) => assert!(done.expect_err("refused").contains(part)),
        }
    }

    #[test]
    fn both_families_are_given_unless_one_is_asked_for() {
        check("", None, &[], Ok(&["10.96.1.0", "fd00:96::100"]));
        check("ipFamilies: [IPv6]", None, &[], Ok(&["fd00:96::100"]));
        check("ipFamilyPolicy: SingleStack", None, &[], Ok(&["10.96.1.0"]));
        check("", None, &["10.96.1.0"], Ok(&["10.96.1.1", "fd00:96::100"]));
    }

    #[test]
    fn an_address_of_the_manifest_is_kept() {
        check("clusterIP: 10.96.0.7", None, &[], Ok(&["10.96.0.7", "fd00:96::100"]));
        check("clusterIP: 'fd00:96::7'", None, &[], Ok(&["fd00:96::7", "10.96.1.0"]));
        check("clusterIP: 10.96.0.7", None, &["10.96.0.7"], Err("is another Service's"));
    }

    #[test]
    fn a_changed_service_keeps_its_addresses() {
        check("", Some("clusterIPs: [10.96.9.9, 'fd00:96::9']"), &[], Ok(&["10.96.9.9", "fd00:96::9"]));
    }

    #[test]
    fn headless_services_have_none() {
        check("clusterIP: None", None, &[], Ok(&["None"]));
    }
}
