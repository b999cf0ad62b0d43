//! Which addresses a Service has, and which it only claims.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Service;

use crate::config::Config;

/// The addresses at which a Service is reached, of both families.
pub struct Addresses {
    /// Its cluster addresses, which the API server gives to one Service each.
    pub own: Vec<IpAddr>,
    /// External and load-balancer addresses, which its author or a controller writes: those within the cluster's own
    /// ranges, or of this machine, are nobody's to claim.
    pub claimed: Vec<IpAddr>,
}

impl Addresses {
    /// What a Service says, as far as it is believed.
    pub fn of(service: &Service, config: &Config) -> Self {
        let spec = service.spec.as_ref();
        let cluster = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
        let first = spec.and_then(|spec| spec.cluster_ip.as_ref()).into_iter();
        let external = spec.and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten();
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress =
            balancer.and_then(|lb| lb.ingress.as_ref()).into_iter().flatten().filter_map(|i| i.ip.as_ref());
        let own = parsed(cluster.chain(first));
        let claimable = |ip: &IpAddr| !config.in_cluster(*ip) && is_routable(*ip) && !own.contains(ip);
        let claimed = parsed(external.chain(ingress)).into_iter().filter(claimable).collect();
        Self { own, claimed }
    }
}

fn parsed<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let all: BTreeSet<_> = texts.filter_map(|ip| ip.parse().ok()).collect();
    all.into_iter().collect()
}

fn is_routable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn nobody_claims_what_belongs_to_the_cluster() {
        let args =
            ["heddle-proxy", "--pod-name", "a", "--pod-namespace", "b", "--cluster-cidrs", "10.0.0.0/8"];
        let config = Config::try_parse_from(args).expect("arguments");
        let service: Service = serde_json::from_value(serde_json::json!({ "spec": {
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["10.96.0.9", "169.254.169.254", "127.0.0.1", "192.0.2.7"],
        }}))
        .expect("service");
        let addresses = Addresses::of(&service, &config);
        assert_eq!(addresses.own, ["10.96.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().expect("address")));
        assert_eq!(addresses.claimed, ["192.0.2.7".parse::<IpAddr>().expect("address")]);
    }
}
