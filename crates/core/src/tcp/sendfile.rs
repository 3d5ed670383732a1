//! Sending from a file's bytes that lie in memory already (`sendfile`): what many connections send is read once and
//! copied for none of them.
//!
//! The bytes are lent ([`Lent`]) as for [`Shard::tcp_send_zerocopy`], and like there packets share them, also when
//! they are sent again. But nobody waits for them: there are no numbers and no completions, and the memory goes
//! when the last of its holders does, which may be a packet in a queue below a connection that is closed.
//!
//! In Linux the pages of the file itself are sent: who changes the file meanwhile changes what is under way, and
//! what is sent again differs from what was sent. Here what is lent can not change, so each byte is sent as it was
//! read. Who reads files for this is outside of the stack (`linerate_dev::file`).
//!
//! before: the application   after: [`super::sndq`], [`super::output`]
//! Linux:  fs/splice.c `splice_direct_to_actor`; net/ipv4/tcp.c `tcp_sendmsg_locked` with MSG_SPLICE_PAGES

use super::send::SendMsg;
use super::sndq::COPYBREAK;
use crate::pkt::{Lent, SendChunk};
use crate::shard::Shard;
use crate::sock::SocketId;
use crate::sock::error::TcpError;

impl Shard {
    /// Queues `count` bytes of `file` from byte `offset` on without copying them, or as many as it has and as there
    /// is room for. Returns how many; 0 at the file's end. Less than 512 bytes are copied, which costs less.
    ///
    /// ```
    /// use linerate_core::pkt::Lent;
    /// use linerate_core::shard::Shard;
    /// use linerate_core::sock::SocketId;
    /// use linerate_core::tcp::{SendMsg, TcpError};
    ///
    /// /// A head, and behind it in the same segments the file, from byte `at` on.
    /// fn answer(shard: &mut Shard, id: SocketId, head: &[u8], file: &Lent, at: &mut usize) -> Result<(), TcpError> {
    ///     if *at == 0 {
    ///         shard.tcp_sendmsg(id, head, SendMsg { more: true, ..SendMsg::default() })?;
    ///     }
    ///     while *at < file.len() {
    ///         *at += shard.tcp_sendfile(id, file, *at, file.len(), SendMsg::default())?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Shard::tcp_send`].
    pub fn tcp_sendfile(
        &mut self,
        id: SocketId,
        file: &Lent,
        offset: usize,
        count: usize,
        msg: SendMsg,
    ) -> Result<usize, TcpError> {
        let offset = offset.min(file.len());
        let count = count.min(file.len() - offset);
        self.tcp_queue(id, count, msg, |net, tp, n| {
            if n > COPYBREAK {
                let part = file.part(offset..offset + n);
                tp.sndq.push_lent(SendChunk::unwatched(part));
            } else {
                tp.sndq.push_copy(net, &file.bytes()[offset..offset + n]);
            }
            Ok(())
        })
    }
}
