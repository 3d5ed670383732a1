//! What the application is told, once per turn.

use std::collections::VecDeque;

use super::SocketId;

/// What a socket is ready for (bits as of `poll(2)`, in spirit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(pub u8);

impl Ready {
    /// Something can be read, accepted or judged (a held SYN).
    pub const IN: Ready = Ready(1);
    /// There is room to send again, or a connection is established.
    pub const OUT: Ready = Ready(2);
    /// The peer has sent its FIN: after what is queued, reading ends.
    pub const RDHUP: Ready = Ready(4);
    /// Both directions are finished.
    pub const HUP: Ready = Ready(8);
    /// The socket failed; its error says why.
    pub const ERR: Ready = Ready(16);
    /// Urgent data can be read.
    pub const PRI: Ready = Ready(32);

    /// Whether any bit of `other` is set.
    pub fn has(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }
}
impl std::ops::BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}
impl std::ops::BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

/// Something happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket.
    pub id: SocketId,
    /// The number that the application gave the socket.
    pub user: u64,
}

/// The list of sockets to which something happened. A socket keeps what it is ready for (`pending`) in
/// itself, and is asked when its turn comes: it stands in the list at most once, or once for each kind
/// of readiness where the application takes them one by one.
#[derive(Default)]
pub struct Events(VecDeque<Event>);

impl Events {
    /// Notes that `ready` holds for a socket; `pending` is the socket's own note.
    #[inline]
    pub fn raise(&mut self, id: SocketId, user: u64, pending: &mut Ready, ready: Ready) {
        if pending.0 == 0 {
            self.0.push_back(Event { id, user });
        }
        *pending |= ready;
    }
    /// [`Events::raise`] for a socket whose kinds of readiness are taken one by one, each by a call of
    /// its own: one that nobody takes keeps no other back.
    #[inline]
    pub fn raise_kind(&mut self, id: SocketId, user: u64, pending: &mut Ready, ready: Ready) {
        if !pending.has(ready) {
            self.0.push_back(Event { id, user });
        }
        *pending |= ready;
    }
    /// The next socket in the list.
    pub fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }
    /// The socket is gone: nobody is to be told of it.
    pub(crate) fn forget(&mut self, id: SocketId) {
        self.0.retain(|event| event.id != id);
    }
    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
