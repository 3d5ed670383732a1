//! poll(2) and epoll(7).
//!
//! Linux: net/ipv4/tcp.c `tcp_poll`; fs/eventpoll.c

use std::collections::BTreeMap;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{OptName, State, TcpOpt};

use crate::Errno;
use crate::calls::Calls;
use crate::files::{File, Sock, Stand};

/// How often a file woke those that wait for it, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakes {
    /// Those that wait to read.
    pub read: u64,
    /// Those that wait to write.
    pub write: u64,
    /// All of them.
    pub all: u64,
}

/// What an epoll instance watches.
#[derive(Default)]
pub(crate) struct Epoll {
    items: BTreeMap<i32, Item>,
}

struct Item {
    events: u32,
    data: u64,
    /// What it had woken when this was told last; `None` = it is to be looked at anew.
    seen: Option<Wakes>,
    /// EPOLLONESHOT has fired.
    spent: bool,
}

const IN: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
const OUT: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
const PRI: u32 = libc::EPOLLPRI as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ERR: u32 = libc::EPOLLERR as u32;

impl Epoll {
    /// Forgets a closed file.
    pub fn forget(&mut self, fd: i32) {
        self.items.remove(&fd);
    }
}

impl Item {
    /// Whether a file that has woken so often may be told: always, unless edges are asked for.
    fn fresh(&self, wakes: Wakes) -> bool {
        let Some(seen) = self.seen else { return true };
        self.events & libc::EPOLLET as u32 == 0
            || wakes.all != seen.all
            || (self.events & IN != 0 && wakes.read != seen.read)
            || (self.events & OUT != 0 && wakes.write != seen.write)
    }
}

impl Calls {
    /// What the file is ready for, and how often it has woken (`EPOLL*` bits, those of `poll` too).
    fn ready(&mut self, fd: i32) -> Result<(u32, Wakes), Errno> {
        let shard = &mut self.stack.shard;
        match self.files.get(fd)? {
            File::Sock(sock) => {
                let lowat = sock.conn().and_then(|id| shard.tcp_get(id, OptName::RcvLowat).ok());
                let lowat = lowat.map_or(1, TcpOpt::to_linux) as usize;
                Ok((tcp_poll(shard, sock, lowat), sock.wakes))
            }
            File::Pipe(id, writes) => {
                let (id, writes) = (*id, *writes);
                let held = self.files.pipes.get(&id).map_or(0, |pipe| pipe.len());
                let mask = match writes {
                    true => OUT * u32::from(held < crate::data::PIPE_SIZE),
                    false => IN * u32::from(held > 0),
                };
                Ok((mask, Wakes::default()))
            }
            File::Epoll(_) => Ok((0, Wakes::default())),
        }
    }
    /// `poll`, without waiting: the events of each file, and how many have some.
    pub fn poll(&mut self, fds: &mut [(i32, i16, i16)]) -> usize {
        for (fd, events, revents) in fds.iter_mut() {
            *revents = match *fd {
                ..0 => 0,
                fd => match self.ready(fd) {
                    Ok((mask, _)) => mask as i16 & (*events | libc::POLLERR | libc::POLLHUP),
                    Err(_) => libc::POLLNVAL,
                },
            };
        }
        fds.iter().filter(|(_, _, revents)| *revents != 0).count()
    }
    /// `epoll_ctl`.
    ///
    /// # Errors
    /// EBADF, EEXIST, ENOENT, EINVAL.
    pub fn epoll_ctl(&mut self, epfd: i32, op: i32, fd: i32, to: (u32, u64)) -> Result<(), Errno> {
        self.files.get(fd)?;
        let items = &mut self.files.epoll(epfd)?.items;
        let item = Item { events: to.0, data: to.1, seen: None, spent: false };
        match (op, items.contains_key(&fd)) {
            (_, _) if epfd == fd => Err(libc::EINVAL),
            (libc::EPOLL_CTL_ADD, true) => Err(libc::EEXIST),
            (libc::EPOLL_CTL_ADD, false) | (libc::EPOLL_CTL_MOD, true) => {
                items.insert(fd, item);
                Ok(())
            }
            (libc::EPOLL_CTL_DEL, true) => {
                items.remove(&fd);
                Ok(())
            }
            (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, false) => Err(libc::ENOENT),
            _ => Err(libc::EINVAL),
        }
    }
    /// `epoll_wait`, without waiting: events and data of at most `max` files.
    ///
    /// # Errors
    /// EBADF, EINVAL.
    pub fn epoll_wait(&mut self, epfd: i32, max: usize) -> Result<Vec<(u32, u64)>, Errno> {
        let watched: Vec<i32> = self.files.epoll(epfd)?.items.keys().copied().collect();
        let mut told = Vec::new();
        for fd in watched {
            if told.len() == max {
                break;
            }
            let Ok((mask, wakes)) = self.ready(fd) else { continue };
            let items = &mut self.files.epoll(epfd)?.items;
            let Some(item) = items.get_mut(&fd).filter(|item| !item.spent) else { continue };
            let mask = mask & (item.events | ERR | HUP);
            if !item.fresh(wakes) {
                continue;
            }
            item.seen = Some(wakes);
            if mask == 0 {
                continue;
            }
            item.spent = item.events & libc::EPOLLONESHOT as u32 != 0;
            told.push((mask, item.data));
        }
        Ok(told)
    }
}

/// Linux: `tcp_poll`.
fn tcp_poll(shard: &Shard, sock: &Sock, lowat: usize) -> u32 {
    let done = sock.conn().is_some_and(|id| shard.tcp_zerocopy_ready(id));
    let errors = ERR * u32::from(done || sock.stamps.ready());
    let id = match sock.stand {
        Stand::New => return OUT | HUP | errors,
        Stand::Defers(_) => return OUT | errors,
        Stand::Listens(id) => return IN * u32::from(acceptable(shard, id)),
        Stand::Connects(id) | Stand::Connected(id) => id,
    };
    let Some(info) = shard.tcp_info(id) else { return OUT | HUP | errors };
    let rx = shard.tcp_readable(id).unwrap_or_default();
    let closed = info.state == State::Close;
    let rd_shut = sock.rd_shut || rx.fin || closed;
    let mut mask = errors;
    if (rd_shut && sock.wr_shut) || closed {
        mask |= HUP;
    }
    if rd_shut {
        mask |= IN | RDHUP;
    }
    // What Fast Open has opened can be used before its handshake is over.
    let open = matches!(sock.stand, Stand::Connected(_));
    if open || !matches!(info.state, State::SynSent | State::SynRecv) {
        mask |= IN * u32::from(rx.bytes >= lowat);
        mask |= PRI * u32::from(shard.tcp_urgent(id));
        mask |= OUT * u32::from(sock.wr_shut || closed || shard.tcp_writeable(id));
    }
    if shard.tcp_error(id).is_some() {
        mask |= ERR;
    }
    mask
}

/// Whether a connection waits to be accepted.
fn acceptable(shard: &Shard, listener: SocketId) -> bool {
    shard.tcp_iter().any(|row| row.id == Some(listener) && row.rx_queue > 0)
}
