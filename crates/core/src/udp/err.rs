//! ICMP errors about datagrams of ours: a short queue in the socket that sent them.
//!
//! before: [`crate::ip::icmp`]   after: the application
//! Linux:  net/ipv4/udp.c `__udp4_lib_err`, `ip_icmp_error`
//! RFCs:   1122 §4.1.3.3

use std::net::SocketAddr;

use crate::shard::Shard;
use crate::sock::{Ready, SocketId};
use crate::tcp::icmp::ErrKind;

/// Errors that wait to be read, at most, in each socket; later ones are lost.
const ERRORS_MAX: usize = 16;

/// An error about a datagram from `local` to `remote`. Returns whether a socket may have sent it.
pub(crate) fn udp_err(
    cx: &mut Shard,
    local: SocketAddr,
    remote: SocketAddr,
    kind: ErrKind,
) -> bool {
    let found = cx.udp.lookup(&local.ip(), local.port(), &remote.ip(), remote.port(), None);
    let Some(id) = found else { return false };
    let Some(sock) = cx.udp.slab.get_mut(id.index, id.generation) else { return false };
    let errors = &mut sock.rare().errors;
    if errors.len() < ERRORS_MAX {
        errors.push_back((remote, kind));
    }
    cx.net.events.raise_kind(id, sock.user, &mut sock.pending, Ready::ERR);
    true
}

impl Shard {
    /// The next error about a datagram that this socket sent: to whom, and what became of it
    /// (MSG_ERRQUEUE). `None` when there is none left; then the socket is no longer in error.
    pub fn udp_take_error(&mut self, id: SocketId) -> Option<(SocketAddr, ErrKind)> {
        let sock = self.udp.slab.get_mut(id.index, id.generation)?;
        let error = sock.rare.as_mut().and_then(|r| r.errors.pop_front());
        if error.is_none() {
            sock.pending.0 &= !Ready::ERR.0;
        }
        error
    }
}
