//! SCTP.

use linerate_core::table::Stage;

use super::look::noise;
use super::{Check, Rule};
use crate::finding::Finding;
use crate::window::{Cx, Sum, Window};

/// R78.
pub(super) const RULES: &[Rule] = &[Rule {
    id: "R78",
    name: "sctp-errors",
    title: "SCTP drops packets",
    stage: Stage::Transport,
    evidence: "`SctpChecksumErrors` of `/proc/net/sctp/snmp` grows by `noise_per_s` or more, at \
        least `noise_ratio` of `SctpInSCTPPacks`; or `SctpInPktDiscards` or \
        `SctpInDataChunkDiscards` does.",
    causes: "Checksum: the CRC32c was damaged on the way, or a device was to compute it and did \
        not (`tx-checksum-sctp`). Discards: the association has gone, or its receive buffer is \
        full.",
    advice: "Switch the offload off at the sender and look again: `ethtool -K DEV \
        tx-checksum-sctp off`. A full buffer: a faster reader, or a larger SO_RCVBUF.",
    traps: "`SctpOutOfBlues` are packets of no association: scans, or a peer that has not noticed \
        a restart. The counters are there only once the module is loaded.",
    cites: &["RFC 9260 section 6.8", "net/sctp/input.c sctp_rcv", "net/sctp/proc.c sctp_snmp_list"],
    suppresses: &[],
    check: Check::Host(errors),
}];

fn errors(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let of = |w: &Window<'_>, name: &str| w.mib("Sctp", name).map(Sum::from);
    let packets = |w: &Window<'_>| of(w, "InSCTPPacks");
    if let Some(lost) = noise(cx, |w| of(w, "ChecksumErrors"), packets) {
        return Some(
            rule.found(cx, "")
                .loss(&lost)
                .titled("SCTP packets have wrong checksums")
                .because(
                    "They were damaged on the way, or the sender's device did not compute them.",
                )
                .suggest(
                    "Switch the offload off at the sender and look again: `ethtool -K DEV \
                    tx-checksum-sctp off`.",
                )
                .done(),
        );
    }
    let discards = |w: &Window<'_>| {
        Sum::of(["InPktDiscards", "InDataChunkDiscards"].map(|name| w.mib("Sctp", name)))
    };
    let lost = noise(cx, discards, packets)?;
    Some(
        rule.found(cx, "")
            .loss(&lost)
            .because("The association had gone, or its receive buffer was full.")
            .suggest("Let the application read faster, or give it a larger SO_RCVBUF.")
            .done(),
    )
}
