//! Wrong checksums of UDP and TCP: what the rules about them say alike.

use super::Rule;
use crate::finding::Finding;
use crate::window::{Cx, Sum};

/// How the causes are told apart.
pub(super) const CAUSES: &str = "Damaged on the way where no frame checksum covers them, or never \
    computed: a broken offload of a sender.";

/// What to do.
pub(super) const ADVICE: &str =
    "Find the sender; switch its checksum offload off to see whether that is it.";

/// That so many were wrong.
pub(super) fn found(rule: &Rule, cx: &Cx<'_>, wrong: &Sum) -> Finding {
    rule.found(cx, "")
        .stray(wrong)
        .because("Damaged on the way, or the sender's offload did not compute the checksum.")
        .suggest(
            "Find the sender with a capture; switch its checksum offload off (`ethtool -K DEV tx \
            off`) to see whether that is it.",
        )
        .done()
}
