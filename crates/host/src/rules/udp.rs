//! UDP sockets.

use linerate_core::table::Stage;

use super::Rule;
use crate::finding::{Finding, Severity};
use crate::window::Cx;

/// R43 to R47.
pub(super) const RULES: &[Rule] = &[Rule {
    id: "R43",
    name: "udp-rcvbuf",
    title: "UDP datagrams are dropped because a socket's receive buffer is full",
    stage: Stage::SockQueue,
    evidence: "`Udp: RcvbufErrors` grows.",
    causes: "",
    advice: "",
    traps: "",
    cites: &["net/ipv4/udp.c __udp_queue_rcv_skb"],
    suppresses: &[],
    check: rcvbuf,
}];

fn rcvbuf(cx: &Cx<'_>) -> Vec<Finding> {
    let Some(drops) = cx.moved(|w| w.mib("Udp", "RcvbufErrors")) else { return Vec::new() };
    vec![Finding {
        id: "R43",
        name: "udp-rcvbuf",
        title: "UDP datagrams are dropped: a receive buffer is full".into(),
        stage: Stage::SockQueue,
        severity: Severity::Critical,
        lifetime: cx.whole().is_lifetime(),
        loss_per_s: drops.per_s,
        subject: String::new(),
        evidence: vec![drops.evidence],
        cause: String::new(),
        advice: Vec::new(),
    }]
}
