//! Puts the rules into the kernel: the right back end, both families or none.

use crate::options::BackendChoice;
use crate::rules::{Family, OUTBOUND_CHAIN, Redirection, undo_text};
use crate::tool::{Backend, Rest, ToolError};

/// Why the pod is not redirected. Nothing was changed, unless `UndoFailed` says so.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The only back end that may be used refused.
    #[error("cannot redirect with the {0} back end")]
    Refused(Backend, #[source] ToolError),
    /// Neither back end works here.
    #[error("cannot redirect: neither back end of iptables works here: {nft}; {legacy}")]
    NeitherWorks {
        /// What the first said.
        nft: ToolError,
        /// What the second said.
        legacy: ToolError,
    },
    /// A family was refused and an earlier one could not be put back.
    #[error("{refused}, and putting back {family} failed too: the pod is redirected for {family} only")]
    UndoFailed {
        /// The family that keeps rules it should not have.
        family: Family,
        /// Why the other family was refused.
        refused: ToolError,
        /// Why the rules could not be taken back.
        source: ToolError,
    },
}

impl ApplyError {
    /// The refusals, for advice.
    pub fn refusals(&self) -> Vec<&ToolError> {
        match self {
            Self::Refused(_, refusal) => vec![refusal],
            Self::NeitherWorks { nft, legacy } => vec![nft, legacy],
            Self::UndoFailed { refused, source, .. } => vec![refused, source],
        }
    }
}

/// Redirects `families` and says through which back end.
pub fn apply(
    redirection: &Redirection,
    families: &[Family],
    choice: BackendChoice,
) -> Result<Backend, ApplyError> {
    match choice_of(choice, |backend| standing(backend, families)) {
        Choice::Only(backend) => {
            with(backend, redirection, families).map_err(|failure| failure.into_error(backend))?;
            Ok(backend)
        }
        Choice::NftThenLegacy => nft_then_legacy(redirection, families),
    }
}

/// What a back end holds already; a later variant is a better reason to use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Empty,
    OthersRules,
    OurRules,
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Only(Backend),
    NftThenLegacy,
}

/// The back end that has rules already is the one that the pod's other tools see.
fn choice_of(choice: BackendChoice, standing: impl Fn(Backend) -> Standing) -> Choice {
    match choice {
        BackendChoice::Nft => Choice::Only(Backend::Nft),
        BackendChoice::Legacy => Choice::Only(Backend::Legacy),
        BackendChoice::Auto => match (standing(Backend::Nft), standing(Backend::Legacy)) {
            (Standing::Empty, Standing::Empty) => Choice::NftThenLegacy,
            (nft, legacy) if nft >= legacy => Choice::Only(Backend::Nft),
            _ => Choice::Only(Backend::Legacy),
        },
    }
}

/// A back end that cannot even be read holds nothing for us.
fn standing(backend: Backend, families: &[Family]) -> Standing {
    let saved = families.iter().filter_map(|family| backend.save(*family).ok());
    saved.map(|saved| standing_of(&saved)).max().unwrap_or(Standing::Empty)
}

fn standing_of(saved: &str) -> Standing {
    let rules = || saved.lines().filter(|line| line.starts_with("-A "));
    if rules().any(|rule| rule.contains(OUTBOUND_CHAIN)) {
        Standing::OurRules
    } else if rules().next().is_some() {
        Standing::OthersRules
    } else {
        Standing::Empty
    }
}

fn nft_then_legacy(redirection: &Redirection, families: &[Family]) -> Result<Backend, ApplyError> {
    let nft = match with(Backend::Nft, redirection, families) {
        Ok(()) => return Ok(Backend::Nft),
        Err(Failure::Refused(refusal)) => refusal,
        Err(failure @ Failure::UndoFailed { .. }) => return Err(failure.into_error(Backend::Nft)),
    };
    match with(Backend::Legacy, redirection, families) {
        Ok(()) => Ok(Backend::Legacy),
        Err(Failure::Refused(legacy)) => Err(ApplyError::NeitherWorks { nft, legacy }),
        Err(failure @ Failure::UndoFailed { .. }) => Err(failure.into_error(Backend::Legacy)),
    }
}

enum Failure {
    Refused(ToolError),
    UndoFailed { family: Family, refused: ToolError, source: ToolError },
}

impl Failure {
    fn into_error(self, backend: Backend) -> ApplyError {
        match self {
            Self::Refused(refusal) => ApplyError::Refused(backend, refusal),
            Self::UndoFailed { family, refused, source } => {
                ApplyError::UndoFailed { family, refused, source }
            }
        }
    }
}

/// Every family is one transaction; should a later one fail, the earlier ones are put back.
fn with(backend: Backend, redirection: &Redirection, families: &[Family]) -> Result<(), Failure> {
    let mut done: Vec<(Family, String)> = Vec::new();
    for &family in families {
        match one_family(backend, redirection, family) {
            Ok(before) => done.push((family, before)),
            Err(refused) => return Err(put_back(backend, done, refused)),
        }
    }
    Ok(())
}

fn one_family(backend: Backend, redirection: &Redirection, family: Family) -> Result<String, ToolError> {
    let before = backend.save(family)?;
    backend.restore(family, &redirection.restore_text(family, &before), Rest::Kept)?;
    Ok(before)
}

fn put_back(backend: Backend, done: Vec<(Family, String)>, refused: ToolError) -> Failure {
    for (family, before) in done {
        if let Err(source) = backend.restore(family, &undo_text(&before), Rest::Replaced) {
            return Failure::UndoFailed { family, refused, source };
        }
    }
    Failure::Refused(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Empty, OthersRules, OurRules};

    #[track_caller]
    fn check(nft: Standing, legacy: Standing, expected: &Choice) {
        let standing = |backend| if backend == Backend::Nft { nft } else { legacy };
        assert_eq!(choice_of(BackendChoice::Auto, standing), *expected);
    }

    #[test]
    fn a_fresh_pod_tries_nft_then_legacy() {
        check(Empty, Empty, &Choice::NftThenLegacy);
    }

    #[test]
    fn the_back_end_that_has_rules_is_used() {
        check(OthersRules, Empty, &Choice::Only(Backend::Nft));
        check(Empty, OthersRules, &Choice::Only(Backend::Legacy));
    }

    #[test]
    fn our_own_rules_outrank_others() {
        check(OthersRules, OurRules, &Choice::Only(Backend::Legacy));
        check(OurRules, OurRules, &Choice::Only(Backend::Nft));
    }

    #[test]
    fn a_choice_is_final() {
        let choice = choice_of(BackendChoice::Legacy, |_| unreachable!("the rules need not be read"));
        assert_eq!(choice, Choice::Only(Backend::Legacy));
    }

    #[test]
    fn chains_without_rules_are_no_rules() {
        assert_eq!(standing_of("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"), Empty);
        assert_eq!(standing_of("*filter\n-A INPUT -j DROP\nCOMMIT\n"), OthersRules);
        assert_eq!(standing_of("*nat\n-A OUTPUT -p tcp -j HEDDLE_OUTBOUND\nCOMMIT\n"), OurRules);
    }
}
