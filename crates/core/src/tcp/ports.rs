//! Local ports: for listeners that did not ask for one, and for connections that we open.
//!
//! Linux: net/ipv4/inet_hashtables.c `__inet_hash_connect`, `__inet_check_established`
//! RFCs:  6056 §3.3.3, 6191 (TIME_WAIT may be reused)

use std::net::IpAddr;

use super::Tuple;
use super::api::Connect;
use super::demux::Ref;
use super::output::unicast;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::error::{BindError, TcpError};
use crate::wire::IPPROTO_TCP;

impl Shard {
    /// A port that no listener has.
    pub(super) fn tcp_free_port(&mut self, addr: Option<IpAddr>) -> Result<u16, BindError> {
        let (low, high) = self.net.local_port_range();
        let span = (high - low) as u64 + 1;
        let start = self.net.rng.below(span);
        let ports = (0..span).map(|i| low + ((start + i) % span) as u16);
        let tcp = &self.tcp;
        let mut free = ports.filter(|p| !tcp.listen.taken(&tcp.listeners, addr, *p, false));
        free.next().ok_or(BindError::NoPort)
    }

    /// Both ends of a connection to be opened, their hash, and the number to begin with where an
    /// older connection decides it.
    pub(super) fn tcp_pick_ends(
        &mut self,
        connect: &Connect,
    ) -> Result<(Tuple, u32, Option<Seq>), TcpError> {
        let remote = connect.remote;
        if remote.port() == 0 || !unicast(remote.ip()) {
            return Err(TcpError::NetUnreachable);
        }
        let route = self.net.route_out(remote.ip()).ok_or(TcpError::NetUnreachable)?;
        let asked = connect.local.filter(|l| !l.ip().is_unspecified()).map(|l| l.ip());
        let local = asked.or(route.src).ok_or(TcpError::NetUnreachable)?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(TcpError::NetUnreachable);
        }
        let lport = connect.local.map_or(0, |l| l.port());
        let tuple = Tuple { local, remote: remote.ip(), lport, rport: remote.port() };
        if lport != 0 {
            let hash = self.tcp.demux.hash(&tuple);
            let iss = self.tcp_check_established(hash, &tuple)?;
            return Ok((tuple, hash, iss));
        }
        // Of several shards: a port whose answers arrive here, if there is one.
        if let Some(mut home) = self.net.homeward(route.dev, IPPROTO_TCP) {
            let suits = |net: &Net, t: &Tuple| home.suits(net, t.local(), t.remote());
            if let Some(found) = self.tcp_next_port(tuple, suits) {
                return Ok(found);
            }
        }
        self.tcp_next_port(tuple, |_, _| true).ok_or(TcpError::NoPort)
    }

    /// The next local port that `suits` and is free (RFC 6056 §3.3.3: a start that differs by
    /// destination, and a counter).
    fn tcp_next_port(
        &mut self,
        mut tuple: Tuple,
        mut suits: impl FnMut(&Net, &Tuple) -> bool,
    ) -> Option<(Tuple, u32, Option<Seq>)> {
        let (low, high) = self.net.local_port_range();
        let span = (high - low) as u32 + 1;
        let offset = self.tcp.secure_port_offset(&tuple);
        for _ in 0..span {
            self.tcp.port_counter = self.tcp.port_counter.wrapping_add(1);
            let at = offset.wrapping_add(self.tcp.port_counter) % span;
            tuple.lport = low + at as u16;
            let tcp = &self.tcp;
            if !suits(&self.net, &tuple)
                || tcp.listen.taken(&tcp.listeners, Some(tuple.local), tuple.lport, false)
            {
                continue;
            }
            let hash = self.tcp.demux.hash(&tuple);
            if let Ok(iss) = self.tcp_check_established(hash, &tuple) {
                return Some((tuple, hash, iss));
            }
        }
        None
    }

    /// Whether the two ends are free, or only TIME_WAIT has them (`__inet_check_established`).
    fn tcp_check_established(&mut self, hash: u32, tuple: &Tuple) -> Result<Option<Seq>, TcpError> {
        match self.tcp.find(hash, tuple) {
            // Of several shards another may have them.
            None if self.net.lives_elsewhere(&tuple.flow_key()) => Err(TcpError::InUse),
            None => Ok(None),
            Some(Ref::Tw(at)) => self.tw_reuse(at).map(Some),
            Some(_) => Err(TcpError::InUse),
        }
    }
}
