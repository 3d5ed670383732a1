//! How a connection begins: a SYN is judged and held until the outside has answered, or a client of
//! a forwarded port is connected to the program.

use super::{End, Flags, Flow, Phase, Relay};
use crate::count::Count;
use crate::dns::Forwarder;
use crate::gateway::{Cx, Kind, Token};
use crate::host;
use crate::policy::{Denied, Judgement};
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::tcp::api::{Connect, HeldSyn, Refuse, TcpOpt};
use linerate_core::time::SEC;
use linerate_dev::poller::Interest;
use rustix::io::Errno;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// SYNs judged, and connections accepted, in one turn.
const TURN_OPENS: usize = 256;
/// Nanoseconds after which a connection that nobody answers is given up: when Linux would
/// (`tcp_syn_retries` 6 is 127 s).
const CONNECT_NS: u64 = 130 * SEC;
/// Nanoseconds that a resolver has instead, before the next one is tried.
const RESOLVER_NS: u64 = 5 * SEC;
/// Age in nanoseconds from which the host's kernel probes a connection that is silent.
const KEEP_NS: u64 = 30 * SEC;
/// Nanoseconds that the program has to confirm an answered SYN.
const CONFIRM_NS: u64 = 90 * SEC;

impl Relay {
    /// The listener's events: held SYNs and confirmed connections.
    pub(super) fn open_new(&mut self, cx: &mut Cx<'_>, dns: &mut Forwarder) -> bool {
        if !self.knocking {
            return false;
        }
        let mut left = TURN_OPENS;
        while left > 0 {
            let Some(id) = cx.shard.tcp_accept(self.listener) else { break };
            self.accepted(cx, id);
            left -= 1;
        }
        while left > 0 {
            let Some(syn) = cx.shard.syn_next(self.listener) else { break };
            self.judge(cx, dns, &syn);
            left -= 1;
        }
        // There may be more: come back without waiting for an event that has been told already.
        self.knocking = left == 0;
        self.knocking
    }

    /// Decides about a SYN: refuse, or connect outside.
    fn judge(&mut self, cx: &mut Cx<'_>, dns: &mut Forwarder, syn: &HeldSyn) {
        if let Some(&index) = self.pending.get(&(syn.remote, syn.local)) {
            return self.again(cx, index, syn);
        }
        let to = match cx.policy.judge(syn.local) {
            Judgement::Dial(to) => Some(to),
            Judgement::Dns if dns.has_resolver(cx) => None,
            Judgement::Dns => return cx.shard.syn_refuse(syn.id, Refuse::Reset),
            Judgement::Deny(why) => {
                cx.counts.deny(why);
                let how = match why {
                    Denied::Gateway => Refuse::Reset,
                    Denied::NoNeighbour => Refuse::Unreachable { code: 1 },
                    _ => Refuse::Unreachable { code: 13 },
                };
                return cx.shard.syn_refuse(syn.id, how);
            }
        };
        if let Some((why, how)) = self.full(cx, syn) {
            cx.counts.inc(why);
            return cx.shard.syn_refuse(syn.id, how);
        }
        self.make_room(cx);
        let made = match to {
            Some(to) => host::connect(to).map(|(host, connected)| (None, host, connected)),
            None => dns.connect(0).map(|(at, host, connected)| (Some(at), host, connected)),
        };
        let (resolver, host, connected) = match made {
            Ok(made) => made,
            Err(err) => {
                let no_room =
                    matches!(err, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM);
                let why = if no_room { Count::HostSocketFailed } else { Count::TcpUpstreamRefused };
                cx.counts.inc(why);
                return cx.shard.syn_refuse(syn.id, refusal(err));
            }
        };
        let flow = Flow {
            host,
            sock: syn.id,
            phase: Phase::Connecting,
            flags: Flags::default(),
            program: syn.remote,
            remote: syn.local,
            resolver,
            opened: cx.shard.net.now,
            up_bytes: 0,
            down_bytes: 0,
        };
        let Some(index) = self.add(cx, flow) else {
            return cx.shard.syn_refuse(syn.id, Refuse::Reset);
        };
        self.pending.insert((syn.remote, syn.local), index);
        *self.waiting.entry(syn.local).or_insert(0) += 1;
        self.connecting += 1;
        self.oldest.push_back((index, self.flows.generation(index)));
        let patience = if resolver.is_some() { RESOLVER_NS } else { CONNECT_NS };
        self.timers.arm(index, cx.shard.net.now.plus(patience));
        if connected {
            self.answer(cx, index);
        }
    }

    /// The stack has forgotten a SYN that was held, and the program has sent it again: it takes
    /// the old one's place, and nobody is connected to twice.
    #[cold]
    fn again(&mut self, cx: &mut Cx<'_>, index: u32, syn: &HeldSyn) {
        let Some(flow) = self.flows.at_mut(index) else { return };
        flow.sock = syn.id;
        if flow.phase == Phase::Answered && !cx.shard.syn_accept(syn.id) {
            self.end(cx, index, End::Reset);
        }
    }

    /// Forgets the connections that have waited longest for the outside, so that those to where
    /// nobody answers do not keep out those to where somebody does. The program's kernel tries
    /// again by itself. Below what the stack holds, so that a burst is still judged.
    fn make_room(&mut self, cx: &mut Cx<'_>) {
        let held = cx.shard.net.knobs.tcp_max_syn_backlog;
        let held = usize::try_from(held - held / 4).unwrap_or(usize::MAX);
        let room = cx.config.limits.pending.min(held).max(1);
        while self.connecting >= room {
            let Some((index, generation)) = self.oldest.pop_front() else { break };
            let Some(flow) = self.flows.get(index, generation) else { continue };
            if flow.phase != Phase::Connecting {
                continue;
            }
            // It may be connected without our having been told yet: a burst within one turn must
            // not push out what was answered at once.
            if rustix::net::getpeername(&flow.host).is_ok() {
                self.answer(cx, index);
                continue;
            }
            cx.counts.inc(Count::TcpPendingFull);
            cx.shard.syn_refuse(flow.sock, Refuse::Silent);
            self.end(cx, index, End::Quiet);
        }
        // What ended by itself goes now and then, so that the list stays in proportion.
        if self.oldest.len() > 2 * room {
            let flows = &self.flows;
            let connects = |at: &(u32, u32)| {
                flows.get(at.0, at.1).is_some_and(|flow| flow.phase == Phase::Connecting)
            };
            self.oldest.retain(connects);
        }
    }

    /// Why there is no room for one more connection, and how to say it.
    fn full(&self, cx: &Cx<'_>, syn: &HeldSyn) -> Option<(Count, Refuse)> {
        let limits = &cx.config.limits;
        if self.flows.len() >= self.flows_max {
            return Some((Count::TcpFlowsFull, Refuse::Reset));
        }
        // Silence makes the program's kernel try again, when there may be room.
        let waiting = self.waiting.get(&syn.local).copied().unwrap_or(0);
        let full = waiting >= limits.pending_per_destination;
        full.then_some((Count::TcpPendingDestinationFull, Refuse::Silent))
    }

    /// Adds a flow and watches its host socket.
    fn add(&mut self, cx: &mut Cx<'_>, flow: Flow) -> Option<u32> {
        let (index, generation) = self.flows.insert(flow);
        let token = Token::new(Kind::Tcp, index, generation);
        let host = &self.flows.at(index)?.host;
        if cx.poller.add(host, token.0, Interest::READ_WRITE.edge()).is_err() {
            cx.counts.inc(Count::HostSocketFailed);
            self.flows.remove(index);
            return None;
        }
        Some(index)
    }

    /// The host's socket is connected: the SYN is answered.
    pub(super) fn answer(&mut self, cx: &mut Cx<'_>, index: u32) {
        let Some(flow) = self.flows.at_mut(index) else { return };
        flow.phase = Phase::Answered;
        let (sock, remote) = (flow.sock, flow.remote);
        self.not_waiting(remote);
        self.timers.arm(index, cx.shard.net.now.plus(CONFIRM_NS));
        if !cx.shard.syn_accept(sock) {
            cx.counts.inc(Count::TcpProgramReset);
            self.end(cx, index, End::Reset);
        }
    }

    /// The host's socket did not connect: the next resolver is tried, or the program hears why.
    pub(super) fn failed(&mut self, cx: &mut Cx<'_>, dns: &Forwarder, index: u32, err: Errno) {
        if self.next_resolver(cx, dns, index) {
            return;
        }
        let Some(flow) = self.flows.at(index) else { return };
        let timeout = err == Errno::TIMEDOUT;
        let why = if timeout { Count::TcpUpstreamTimeout } else { Count::TcpUpstreamRefused };
        cx.counts.inc(why);
        cx.shard.syn_refuse(flow.sock, refusal(err));
        self.end(cx, index, End::Quiet);
    }

    /// Connects a flow to the resolver behind the one that failed; false if there is none. The
    /// program's SYN stays held.
    fn next_resolver(&mut self, cx: &mut Cx<'_>, dns: &Forwarder, index: u32) -> bool {
        let generation = self.flows.generation(index);
        let Some(flow) = self.flows.at_mut(index) else { return false };
        let Some(tried) = flow.resolver else { return false };
        let Ok((at, host, connected)) = dns.connect(tried + 1) else { return false };
        let token = Token::new(Kind::Tcp, index, generation);
        if cx.poller.add(&host, token.0, Interest::READ_WRITE.edge()).is_err() {
            cx.counts.inc(Count::HostSocketFailed);
            return false;
        }
        // What was known of the host's side was about the other socket.
        (flow.host, flow.resolver, flow.flags) = (host, Some(at), Flags::default());
        self.timers.arm(index, cx.shard.net.now.plus(RESOLVER_NS));
        if connected {
            self.answer(cx, index);
        }
        true
    }

    pub(super) fn not_waiting(&mut self, remote: SocketAddr) {
        self.connecting = self.connecting.saturating_sub(1);
        if let Some(n) = self.waiting.get_mut(&remote) {
            *n -= 1;
            if *n == 0 {
                self.waiting.remove(&remote);
            }
        }
    }

    /// The program has confirmed: bytes may flow.
    fn accepted(&mut self, cx: &mut Cx<'_>, id: SocketId) {
        let addrs = cx.shard.tcp_addrs(id);
        let index = addrs.and_then(|(local, remote)| self.pending.remove(&(remote, local)));
        let Some((index, flow)) = index.and_then(|i| Some((i, self.flows.at_mut(i)?))) else {
            // Its flow has ended meanwhile: nobody is there to talk to.
            return cx.shard.tcp_abort(id);
        };
        flow.sock = id;
        flow.phase = Phase::Open;
        // What has come from the host since it was connected was told, and is noted already.
        flow.flags.set(Flags::HOST_OUT | Flags::PROGRAM_IN);
        self.timers.arm(index, cx.shard.net.now.plus(KEEP_NS));
        let token = Token::new(Kind::Tcp, index, self.flows.generation(index));
        let set = cx.shard.tcp_set(id, TcpOpt::User(token.0));
        // What the relay writes is what a peer wrote: it does not wait for more.
        let set = set.and_then(|()| cx.shard.tcp_set(id, TcpOpt::NoDelay(true)));
        debug_assert!(set.is_ok(), "a connection that was just accepted exists");
        cx.shard.take_ready(id);
        cx.counts.inc(Count::TcpOpened);
        self.list(index);
    }

    /// A client of a forwarded port: the stack connects to the program.
    pub fn connect_inside(
        &mut self,
        cx: &mut Cx<'_>,
        host: OwnedFd,
        from: SocketAddr,
        to: SocketAddr,
    ) {
        if self.flows.len() >= self.flows_max {
            cx.counts.inc(Count::TcpFlowsFull);
            return host::reset(host);
        }
        // The name is a stand-in until the connection has one.
        let flow = Flow {
            host,
            sock: self.listener,
            phase: Phase::Inside,
            flags: Flags::default(),
            program: to,
            remote: from,
            resolver: None,
            opened: cx.shard.net.now,
            up_bytes: 0,
            down_bytes: 0,
        };
        let Some(index) = self.add(cx, flow) else { return };
        let user = Token::new(Kind::Tcp, index, self.flows.generation(index)).0;
        let gateway = cx.config.gateway(to.ip()).map(|addr| SocketAddr::new(addr, 0));
        let mut made = cx.shard.tcp_connect(Connect { local: Some(from), remote: to, user });
        if matches!(made, Err(TcpError::InUse)) {
            made = cx.shard.tcp_connect(Connect { local: gateway, remote: to, user });
        }
        match made {
            Ok(id) => {
                for opt in [TcpOpt::NoDelay(true), TcpOpt::OobInline(true)] {
                    let set = cx.shard.tcp_set(id, opt);
                    debug_assert!(set.is_ok(), "a connection that was just opened exists");
                }
                if let Some(flow) = self.flows.at_mut(index) {
                    flow.sock = id;
                }
            }
            Err(_) => {
                cx.counts.inc(Count::TcpForwardRefused);
                if let Some(flow) = self.flows.remove(index) {
                    host::reset(flow.host);
                }
            }
        }
    }
}

/// How the program hears of a connection that failed outside.
fn refusal(err: Errno) -> Refuse {
    let code = match err {
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => 0,
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => 1,
        Errno::ACCESS | Errno::PERM => 13,
        _ => return Refuse::Reset,
    };
    Refuse::Unreachable { code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_outside_are_told_as_what_they_are() {
        let code = |err| match refusal(err) {
            Refuse::Unreachable { code } => Some(code),
            _ => None,
        };
        assert_eq!(refusal(Errno::CONNREFUSED), Refuse::Reset);
        assert_eq!(refusal(Errno::CONNRESET), Refuse::Reset);
        assert_eq!(code(Errno::NETUNREACH), Some(0));
        assert_eq!(code(Errno::HOSTUNREACH), Some(1));
        assert_eq!(code(Errno::TIMEDOUT), Some(1));
        assert_eq!(code(Errno::ACCESS), Some(13));
    }
}
