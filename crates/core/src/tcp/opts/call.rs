//! Options as the application sets and reads them.

use super::set::keepalive_times;
use super::{KeepAlive, OptName, TcpOpt};
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{SockKind, SocketId};
use crate::tcp::api::owned;
use crate::tcp::md5::Md5Sig;
use crate::tcp::{State, Tcb, Tuple};

impl Shard {
    /// Sets an option of a connection, or of a listener: its connections will have it.
    ///
    /// # Errors
    /// `NotConnected` if there is no such connection or listener; `Invalid` (EINVAL) where the value
    /// is out of range; `NotPermitted` (EPERM) for a congestion control that
    /// `net.ipv4.tcp_allowed_congestion_control` does not name.
    pub fn tcp_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        if id.kind == SockKind::Listen {
            return self.listener_set(id, opt);
        }
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        tp.set_opt(net, opt)?;
        self.tcp_settle(id.index);
        Ok(())
    }
    fn listener_set(&mut self, id: SocketId, opt: TcpOpt) -> Result<(), TcpError> {
        if let TcpOpt::Md5Sig(sig) = opt {
            return self.listener_md5(id, sig);
        }
        let mut tp = unopened(&self.net);
        tp.state = State::Listen;
        tp.set_opt(&mut self.net, opt)?;
        let l = self.tcp.listener(id).ok_or(TcpError::NotConnected)?;
        match opt {
            TcpOpt::User(user) => l.user = user,
            _ => {
                let same = std::mem::discriminant(&opt);
                l.opts.retain(|o| std::mem::discriminant(o) != same);
                l.opts.push(opt);
            }
        }
        if let TcpOpt::DeferAccept(_) = opt {
            l.defer_accept = tp.opts().map_or(0, |o| o.defer_accept);
        }
        Ok(())
    }
    fn listener_md5(&mut self, id: SocketId, sig: Md5Sig) -> Result<(), TcpError> {
        let l = self.tcp.listener(id).ok_or(TcpError::NotConnected)?;
        let held = l.opts.len();
        l.opts.retain(|o| !matches!(o, TcpOpt::Md5Sig(old) if old.same_peers(&sig)));
        match sig.is_removal() {
            true if l.opts.len() == held => return Err(TcpError::NoKey),
            true => {}
            false => l.opts.push(TcpOpt::Md5Sig(sig)),
        }
        Ok(())
    }
    /// Reads an option of a connection or of a listener.
    ///
    /// # Errors
    /// `NotConnected` if there is neither.
    pub fn tcp_get(&mut self, id: SocketId, name: OptName) -> Result<TcpOpt, TcpError> {
        if let Some(l) = self.tcp.listener(id) {
            let opts = std::mem::take(&mut l.opts);
            let told = self.tcp_get_unopened(&opts, name);
            if let Some(l) = self.tcp.listener(id) {
                l.opts = opts;
            }
            return told;
        }
        let Shard { net, tcp, .. } = self;
        let tp = owned(&mut tcp.conns, id).ok_or(TcpError::NotConnected)?;
        Ok(tp.get_opt(net, name))
    }
    /// What an option of a socket would be that has been given `opts` and is not open yet.
    ///
    /// # Errors
    /// `Invalid` (EINVAL) where one of `opts` is out of range: so they can be tried, too.
    pub fn tcp_get_unopened(&mut self, opts: &[TcpOpt], name: OptName) -> Result<TcpOpt, TcpError> {
        let mut tp = unopened(&self.net);
        for opt in opts {
            tp.set_opt(&mut self.net, *opt)?;
        }
        Ok(tp.get_opt(&self.net, name))
    }
    /// The keepalive times that the knobs give.
    pub fn tcp_keepalive(&self) -> KeepAlive {
        keepalive_times(&self.net, None)
    }
    /// Bytes that can be read; 1 if only the end of the stream can, as TCP_INQ tells it.
    pub fn tcp_inq(&self, id: SocketId) -> usize {
        let read = self.tcp_readable(id).unwrap_or_default();
        if read.bytes == 0 { usize::from(read.fin) } else { read.bytes }
    }
}

/// A socket that is not open.
fn unopened(net: &Net) -> Tcb {
    let any = std::net::Ipv4Addr::UNSPECIFIED.into();
    let mut tp = Tcb::new(net, Tuple { local: any, remote: any, lport: 0, rport: 0 }, 0);
    tp.window_clamp = 0;
    tp
}
