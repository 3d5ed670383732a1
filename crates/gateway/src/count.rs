//! What the gateway counts by itself: what it passes on lies beyond the stack's stages, so what it
//! refuses there has counters of its own.

use crate::policy::Denied;

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $name:ident, )+) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Count { $( $(#[doc = $doc])+ $name, )+ }
        impl Count {
            /// All of them, in order.
            pub const ALL: &'static [Count] = &[$( Count::$name ),+];
            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $( Count::$name => stringify!($name) ),+ }
            }
            /// What it means.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $( Count::$name => concat!($($doc),+).trim_ascii() ),+ }
            }
        }
    };
}

counters! {
    /// TCP connections that the program opened and that were answered from outside.
    TcpOpened,
    /// TCP connections that came in by a forwarded port and were answered by the program.
    TcpForwarded,
    /// TCP connections that were refused, or failed, outside: the program was told how.
    TcpUpstreamRefused,
    /// TCP connections that nobody outside answered in time.
    TcpUpstreamTimeout,
    /// TCP connections that ended with a reset or an error from outside.
    TcpUpstreamReset,
    /// TCP connections that the program reset, or that it no longer answered for.
    TcpProgramReset,
    /// SYNs dropped because too many wait for an answer from outside.
    TcpPendingFull,
    /// SYNs dropped because too many wait for an answer from one destination.
    TcpPendingDestinationFull,
    /// TCP connections refused because as many as the limit allows are open.
    TcpFlowsFull,
    /// Connections on forwarded ports that the program did not take.
    TcpForwardRefused,
    /// Host sockets that could not be made, for lack of descriptors or memory.
    HostSocketFailed,
    /// UDP endpoints of the program that got a host socket.
    UdpEndpoints,
    /// UDP endpoints that ended by silence.
    UdpExpired,
    /// UDP endpoints that gave way to newer ones.
    UdpEvicted,
    /// Datagrams from the program to the outside.
    UdpOut,
    /// Datagrams from the outside to the program.
    UdpIn,
    /// Datagrams from the program that the host did not take: its queue is full, or the address
    /// can not be sent to.
    UdpSendFailed,
    /// Datagrams from outside whose sender the endpoint never sent to.
    UdpFiltered,
    /// Datagrams from outside for which the stack had no room.
    UdpNoRoom,
    /// Errors from the network that were passed on to the program.
    ErrorsPassed,
    /// Packets of the program whose TTL ended at the gateway.
    TtlExceeded,
    /// Echo requests passed on.
    EchoOut,
    /// Echo replies passed on.
    EchoIn,
    /// Echo requests dropped because the host permits neither ping nor raw sockets: widen
    /// net.ipv4.ping_group_range, or run as root.
    EchoNotPermitted,
    /// Echo requests dropped because too many identifiers are in use.
    EchoFull,
    /// DNS queries passed on.
    DnsQueries,
    /// DNS answers passed back.
    DnsAnswers,
    /// DNS queries answered SERVFAIL because no resolver answered in time.
    DnsTimeout,
    /// DNS queries answered SERVFAIL because the host has no resolver.
    DnsNoResolver,
    /// DNS queries answered SERVFAIL because too many wait.
    DnsFull,
    /// DNS messages dropped because they are no queries, or answers to nothing that was asked.
    DnsInvalid,
}

/// The gateway's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    counts: [u64; Count::ALL.len()],
    denied: [u64; Denied::ALL.len()],
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { counts: [0; Count::ALL.len()], denied: [0; Denied::ALL.len()] }
    }
}

impl Counts {
    /// Counts one.
    #[inline]
    pub(crate) fn inc(&mut self, count: Count) {
        self.inc_by(count, 1);
    }
    #[inline]
    pub(crate) fn inc_by(&mut self, count: Count, n: u64) {
        if let Some(at) = self.counts.get_mut(count as usize) {
            *at += n;
        }
    }
    #[inline]
    pub(crate) fn deny(&mut self, why: Denied) {
        if let Some(at) = self.denied.get_mut(why as usize) {
            *at += 1;
        }
    }
    /// The value of one.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.counts.get(count as usize).copied().unwrap_or(0)
    }
    /// Connections, datagrams and echo requests that were denied for this reason.
    #[must_use]
    pub fn denied(&self, why: Denied) -> u64 {
        self.denied.get(why as usize).copied().unwrap_or(0)
    }
    /// All counters with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Count, u64)> + '_ {
        Count::ALL.iter().map(|&count| (count, self.get(count)))
    }
    /// All reasons of denial with their counts.
    pub fn denials(&self) -> impl Iterator<Item = (Denied, u64)> + '_ {
        Denied::ALL.iter().map(|&why| (why, self.denied(why)))
    }
}
