//! Sending without a copy.

use linerate_core::table::Stage;

use super::look;
use super::{Check, Rule};
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::TcpSocket;
use crate::window::Cx;

/// R79.
pub(super) const RULES: &[Rule] = &[Rule {
    id: "R79",
    name: "option-memory",
    title: "a socket has no room for more sends without a copy",
    stage: Stage::Send,
    evidence: "The option memory of a socket (`o` of `ss -m`) is at least `mem_fill` of \
        `net.core.optmem_max`.",
    causes: "Each send with MSG_ZEROCOPY that was not acknowledged yet takes some; so do its \
        notices that the program has not read, and filters that were attached. When it is full, \
        such sends fail with ENOBUFS.",
    advice: "Read the notices (`recvmsg` with MSG_ERRQUEUE); a larger `net.core.optmem_max`.",
    traps: "No counter moves. A device without scatter-gather, and every loopback or veth, copies \
        nevertheless: the notice says so (SO_EE_CODE_ZEROCOPY_COPIED), and then it only costs. \
        What is changed before the notice comes is sent changed.",
    cites: &["Documentation/networking/msg_zerocopy.rst", "net/core/sock.c sock_omalloc"],
    suppresses: &[],
    check: Check::Host(full),
}];

fn full(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let name = "net.core.optmem_max";
    let most = cx.now().sysctl(name).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)?;
    let held = |s: &&TcpSocket| s.info.get("optmem").unwrap_or(0);
    let socket = cx.now().sockets.tcp.iter().max_by_key(held)?;
    let held = held(&socket);
    if (held as f64) < cx.limits.mem_fill * most as f64 {
        return None;
    }
    Some(
        rule.found(cx, format!("{} to {}", socket.local, socket.remote))
            .state(Severity::Warning)
            .is(socket.info.source(), "optmem", held)
            .sysctl(name)
            .because(format!(
                "{} sends without a copy faster than it is acknowledged, or does not read the \
                notices.",
                look::owner(&socket.owner)
            ))
            .advise_if(
                "Give sockets more option memory.",
                look::more(cx, name, 8, 1 << 24),
                Risk::Mem,
            )
            .suggest(
                "Let the program read its error queue, and send without a copy only what is large.",
            )
            .done(),
    )
}
