//! What a person can do about a refusal: the capability or the kernel module that is missing.
//!
//! iptables says "Permission denied" for a missing capability and "No such file or directory"
//! for a missing module; neither says which one, nor where it is given.

use crate::tool::ToolError;

/// The capabilities that matter here, with their bit in the kernel's mask (`capability.h`).
const NET_ADMIN: (u32, &str) = (12, "NET_ADMIN");
const NET_RAW: (u32, &str) = (13, "NET_RAW");

/// The capability without which nothing can be changed, if it is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the capability {0} is missing. Add it to securityContext.capabilities.add of the container \
     heddle-init; if an admission policy took it away, exempt the namespace (Pod Security level privileged)"
)]
pub struct MissingCapability(&'static str);

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads them from `/proc/self/status`; without it nothing is held against the caller.
    pub fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&status).unwrap_or(Self(u64::MAX))
    }

    /// Both back ends need NET_ADMIN.
    pub fn require(self) -> Result<(), MissingCapability> {
        if self.has(NET_ADMIN) { Ok(()) } else { Err(MissingCapability(NET_ADMIN.1)) }
    }

    fn parse(status: &str) -> Option<Self> {
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(mask.trim(), 16).ok().map(Self)
    }

    const fn has(self, capability: (u32, &str)) -> bool {
        self.0 & (1 << capability.0) != 0
    }
}

/// What to do about the refusals, one line for each kind that we know.
pub fn advice(refusals: &[&ToolError], capabilities: Capabilities) -> Vec<String> {
    if refusals.iter().any(|refusal| capabilities.has(NET_ADMIN) && is_forbidden(refusal)) {
        return vec![FOREIGN_NAMESPACE.to_owned()];
    }
    refusals.iter().filter_map(|refusal| missing(refusal, capabilities)).collect()
}

/// nft tells a missing right from a missing module; legacy does not.
fn is_forbidden(refusal: &ToolError) -> bool {
    said(refusal, &["Permission denied", "Operation not permitted", "you must be root"])
}

fn missing(refusal: &ToolError, capabilities: Capabilities) -> Option<String> {
    const MODULE: [&str; 6] = [
        "No such file",
        "not supported",
        "insmod",
        "module",
        "unable to initialize",
        "No chain/target/match",
    ];
    if refusal.tool.contains("legacy") && !capabilities.has(NET_RAW) {
        return Some(format!("{}: {}", refusal.tool, MissingCapability(NET_RAW.1)));
    }
    let load =
        || format!("{}: load the kernel module {} on the node (modprobe)", refusal.tool, modules(refusal));
    said(refusal, &MODULE).then(load)
}

fn said(refusal: &ToolError, phrases: &[&str]) -> bool {
    phrases.iter().any(|phrase| refusal.reason.contains(phrase))
}

const FOREIGN_NAMESPACE: &str = "NET_ADMIN is held, but not over this network namespace: it belongs to another user \
     namespace. Run the pod with the host's user namespace (hostUsers: true) or with a network namespace of its own";

/// The module behind the rule that failed, else behind the whole table.
fn modules(refusal: &ToolError) -> &'static str {
    const OF_RULES: [(&str, &str); 3] = [
        ("-m owner", "xt_owner"),
        ("-m addrtype", "xt_addrtype"),
        ("-j REDIRECT", "xt_REDIRECT (with nf_nat)"),
    ];
    let rule = refusal.rule.as_deref().unwrap_or_default();
    let of_rule = OF_RULES.iter().find(|(part, _)| rule.contains(part)).map(|(_, module)| *module);
    of_rule.unwrap_or(match (refusal.tool.contains("legacy"), refusal.tool.starts_with("ip6")) {
        (true, true) => "ip6table_nat",
        (true, false) => "iptable_nat",
        (false, _) => "nf_tables, nft_compat, nft_chain_nat, xt_owner or xt_REDIRECT",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Capabilities = Capabilities(u64::MAX);

    #[track_caller]
    fn check(tool: &str, reason: &str, rule: Option<&str>, capabilities: Capabilities, expected: &str) {
        let refusal = ToolError { tool: tool.into(), reason: reason.into(), rule: rule.map(Into::into) };
        let advice = advice(&[&refusal], capabilities).concat();
        assert!(advice.contains(expected), "{advice}");
    }

    #[test]
    fn the_module_of_the_failed_rule_is_named() {
        let reason = "line 6: RULE_APPEND failed (No such file or directory)";
        check("iptables-nft-restore", reason, Some("-A A -m owner --uid-owner 1 -j RETURN"), ALL, "xt_owner");
        check(
            "iptables-nft-restore",
            reason,
            Some("-A A -p tcp -j REDIRECT --to-ports 1"),
            ALL,
            "xt_REDIRECT",
        );
    }

    #[test]
    fn the_module_of_a_missing_table_is_named() {
        let reason = "unable to initialize table 'nat'";
        check("ip6tables-legacy-restore", reason, None, ALL, "ip6table_nat");
        check("iptables-legacy-restore", reason, None, ALL, "iptable_nat");
    }

    #[test]
    fn legacy_needs_net_raw() {
        let without = Capabilities(1 << NET_ADMIN.0);
        check(
            "iptables-legacy-restore",
            "unable to initialize table 'nat'",
            None,
            without,
            "NET_RAW is missing",
        );
    }

    #[test]
    fn a_foreign_network_namespace_is_explained() {
        check("iptables-nft-restore", "Permission denied (you must be root)", None, ALL, "hostUsers");
    }

    #[test]
    fn a_process_without_net_admin_is_refused() {
        let status = "Name:\tx\nCapEff:\t0000000000002000\n";
        let capabilities = Capabilities::parse(status).expect("a mask");
        assert_eq!(capabilities.require(), Err(MissingCapability("NET_ADMIN")));
        assert_eq!(ALL.require(), Ok(()));
    }
}
