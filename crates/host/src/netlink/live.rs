//! This host's answers, by the names of [`crate::source`].

use std::collections::BTreeMap;
use std::io;

use rustix::net::netlink as protocol;

use super::attr::{Request, messages, number32};
use super::owners::Owners;
use super::socket::{ASK, Refused, Socket};
use super::{class, conntrack, diag, ethtool, filter, link, neigh, netdev, qdisc, tcp_info};
use crate::sys::{Ethtool, Words};
use crate::tracefs;

const V4: u8 = libc::AF_INET as u8;
const V6: u8 = libc::AF_INET6 as u8;

/// Sockets to the kernel, each opened when something is first asked of it: in the network namespace of
/// the thread that asks, and it stays there.
#[derive(Debug, Default)]
pub struct Live {
    route: Option<Socket>,
    generic: Option<Generic>,
    diag: Option<Socket>,
    filter: Option<Socket>,
    ioctl: Option<Ethtool>,
    // Whether there were many TCP sockets, and the last brief dumps of them, from which those are chosen
    // that say most.
    many: bool,
    brief: [Vec<u8>; 2],
    owners: Owners,
    drops: Option<tracefs::KfreeSkb>,
}

impl Live {
    /// None yet.
    #[must_use]
    pub fn new() -> Live {
        Live::default()
    }

    /// The answer to the request of this name: `netlink/...`, `ioctl/...` or `tracefs/...`.
    ///
    /// # Errors
    /// `NotFound` for a name that is not known and for families that this kernel lacks, else what the
    /// kernel says: `Unsupported` where a driver or the kernel's configuration has no such thing,
    /// `PermissionDenied` if a right is missing. A socket that failed is opened anew next time.
    pub fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        match name.split_once('/') {
            Some(("netlink", rest)) => match rest.split_once('/') {
                Some(("route", _)) => forget(&mut self.route, |s| route(s, name)),
                Some(("sock_diag", what)) => self.sock_diag(what),
                Some(("ctnetlink", _)) => {
                    let socket = match &mut self.filter {
                        Some(socket) => socket,
                        none => none.insert(Socket::open(Some(protocol::NETFILTER))?),
                    };
                    let answer = conntrack::read(socket, name);
                    if answer.is_err() {
                        self.filter = None;
                    }
                    answer
                }
                Some(("ethtool", what)) => self.generic()?.ethtool(what),
                Some(("netdev", what)) => self.generic()?.netdev(what),
                _ => Err(unknown()),
            },
            Some(("ioctl", rest)) => self.ioctl(rest.strip_prefix("ethtool/").unwrap_or(rest)),
            Some(("tracefs", "kfree_skb")) => {
                if self.drops.is_none() {
                    self.drops = Some(tracefs::KfreeSkb::begin()?);
                }
                self.drops.as_mut().ok_or_else(unknown)?.read()
            }
            _ => Err(unknown()),
        }
    }

    fn sock_diag(&mut self, what: &str) -> io::Result<Vec<u8>> {
        use diag::Which;
        if what == "tcp" {
            self.many = tcp_sockets().is_none_or(|n| n > tcp_info::WHOLE_MAX);
        }
        let tcp = if self.many { Which::Brief } else { Which::Whole };
        let request = match what {
            "tcp" => diag::dump(tcp, V4),
            "tcp6" => diag::dump(tcp, V6),
            "tcp-listen" => diag::dump(Which::Listen, V4),
            "tcp6-listen" => diag::dump(Which::Listen, V6),
            "udp" => diag::dump(Which::Udp, V4),
            "udp6" => diag::dump(Which::Udp, V6),
            "packet" => diag::dump_packet(),
            "xdp" => diag::dump_xdp(),
            "tcp-info" => return self.tcp_info(),
            "owners" => return Ok(self.owners.find()),
            _ => return Err(unknown()),
        };
        let answer = self.diag(|socket| socket.dump(&request))?;
        match what {
            "tcp" if self.many => self.brief[0].clone_from(&answer),
            "tcp6" if self.many => self.brief[1].clone_from(&answer),
            "packet" => self.owners.want(super::inodes_of_taps(&answer)),
            "xdp" => {}
            // Of connections, those that something is the matter with.
            "tcp" | "tcp6" => {
                let matter = diag::sockets(&answer).filter(|s| tcp_info::weight(s) > 0);
                self.owners.want(matter.map(|s| s.owner.inode));
            }
            _ => self.owners.want(diag::sockets(&answer).map(|s| s.owner.inode)),
        }
        Ok(answer)
    }

    fn diag<T>(&mut self, work: impl FnOnce(&mut Socket) -> io::Result<T>) -> io::Result<T> {
        if self.diag.is_none() {
            self.diag = Some(Socket::open(Some(protocol::SOCK_DIAG))?);
        }
        forget(&mut self.diag, |s| work(s.as_mut().ok_or_else(unknown)?))
    }

    /// Of the many sockets of the last dumps those that say most, with all that is known of them.
    fn tcp_info(&mut self) -> io::Result<Vec<u8>> {
        let brief = std::mem::take(&mut self.brief);
        let answer = self.diag(|socket| {
            let mut answer = Vec::new();
            for body in tcp_info::worst(&[&brief[0], &brief[1]]) {
                // One that has gone since is none that matters (ENOENT).
                if let Some(request) = diag::one(body)
                    && let Ok(one) = socket.ask(request)
                {
                    answer.extend(one);
                }
            }
            Ok(answer)
        })?;
        self.owners.want(diag::sockets(&answer).map(|s| s.owner.inode));
        Ok(answer)
    }

    fn generic(&mut self) -> io::Result<&mut Generic> {
        if self.generic.as_ref().is_none_or(|g| g.failed) {
            self.generic = Some(Generic::open()?);
        }
        self.generic.as_mut().ok_or_else(unknown)
    }

    fn ioctl(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let (what, dev) = name.split_once('/').ok_or_else(unknown)?;
        if self.ioctl.is_none() {
            self.ioctl = Some(Ethtool::open()?);
        }
        let ioctl = self.ioctl.as_ref().ok_or_else(unknown)?;
        match what {
            "stats" => ioctl.stats(dev),
            "features" => ioctl.features(dev),
            "rxfh" => ioctl.rxfh(dev),
            "rxclass" => {
                let flows = ethtool::names::FLOWS.iter();
                Ok(flows.filter_map(|(flow, _)| ioctl.hashed(dev, *flow).ok()).flatten().collect())
            }
            "drvinfo" => ioctl.get(dev, Words::Drvinfo),
            "rings" => ioctl.get(dev, Words::Rings),
            "channels" => ioctl.get(dev, Words::Channels),
            "coalesce" => ioctl.get(dev, Words::Coalesce),
            "pause" => ioctl.get(dev, Words::Pause),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no request has this name")
}

/// How many TCP sockets there are in this namespace, about.
fn tcp_sockets() -> Option<usize> {
    let mut all = 0usize;
    for file in ["sockstat", "sockstat6"] {
        // IPv6 may be switched off.
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let Ok(text) = text else { continue };
        let line = text.lines().find(|l| l.starts_with("TCP"))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2).filter(|p| ["inuse", "tw"].contains(&p[0])) {
            all = all.saturating_add(pair[1].parse().ok()?);
        }
    }
    Some(all)
}

// After an error something may still be on its way to that socket.
fn forget<T, R>(
    at: &mut Option<T>,
    work: impl FnOnce(&mut Option<T>) -> io::Result<R>,
) -> io::Result<R> {
    let result = work(at);
    if result.is_err() {
        *at = None;
    }
    result
}

fn route(socket: &mut Option<Socket>, name: &str) -> io::Result<Vec<u8>> {
    if socket.is_none() {
        *socket = Some(Socket::open(None)?);
    }
    let socket = socket.as_mut().ok_or_else(unknown)?;
    match name {
        class::NAME => class::dump(socket),
        filter::NAME => filter::dump(socket),
        link::NAME => socket.dump(&link::request()),
        qdisc::NAME => socket.dump(&qdisc::request()),
        neigh::NEIGH => socket.dump(&neigh::neigh_request()),
        neigh::ROUTE => {
            let mut answer = Vec::new();
            for request in neigh::route_requests() {
                answer.extend(socket.dump(&request)?);
            }
            Ok(answer)
        }
        _ => Err(unknown()),
    }
}

/// A generic netlink socket, and the families that have been asked for.
#[derive(Debug)]
pub(super) struct Generic {
    socket: Socket,
    families: BTreeMap<&'static str, u16>,
    failed: bool,
}

impl Generic {
    pub(super) fn open() -> io::Result<Generic> {
        let socket = Socket::open(Some(protocol::GENERIC))?;
        Ok(Generic { socket, families: BTreeMap::new(), failed: false })
    }

    /// The number of a family: `NotFound` if this kernel has none of that name.
    pub(super) fn family(&mut self, name: &'static str) -> io::Result<u16> {
        /// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_NAME` and `..._ID`.
        const CTRL: u16 = 16;
        const GETFAMILY: u8 = 3;
        const FAMILY_NAME: u16 = 2;
        const FAMILY_ID: u16 = 1;
        if let Some(family) = self.families.get(name) {
            return Ok(*family);
        }
        let request = Request::new(CTRL, ASK, &[GETFAMILY, 1, 0, 0]).text(FAMILY_NAME, name);
        let answer = self.socket.ask(request).map_err(|r| r.source)?;
        let id = messages(&answer).find_map(|m| number32(m.body.get(4..)?, FAMILY_ID));
        let id = id.and_then(|id| u16::try_from(id).ok()).ok_or_else(unknown)?;
        self.families.insert(name, id);
        Ok(id)
    }

    /// Sends what is not a dump.
    pub(super) fn ask(&mut self, request: Request) -> Result<Vec<u8>, Refused> {
        self.socket.ask(request)
    }

    /// Dumps.
    pub(super) fn dump(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let answer = self.socket.dump(request);
        // What was too long is still on its way.
        let cut = [Some(libc::EFBIG), Some(libc::EMSGSIZE)];
        self.failed |= answer.as_ref().is_err_and(|e| cut.contains(&e.raw_os_error()));
        answer
    }

    /// `RINGS_GET`, or `RINGS_GET/eth0`.
    fn ethtool(&mut self, what: &str) -> io::Result<Vec<u8>> {
        let family = self.family("ethtool")?;
        let (what, dev) = what.split_once('/').map_or((what, None), |(w, d)| (w, Some(d)));
        let request = ethtool::request(family, what, dev).ok_or_else(unknown)?;
        if dev.is_some() || what == "STRSET_GET" {
            return self.ask(request).map_err(|r| r.source);
        }
        self.dump(&request)
    }

    fn netdev(&mut self, what: &str) -> io::Result<Vec<u8>> {
        let (_, command) = netdev::COMMANDS.iter().find(|(n, _)| *n == what).ok_or_else(unknown)?;
        let family = self.family("netdev")?;
        let request = Request::new(family, super::attr::DUMP, &[*command, 1, 0, 0]);
        let (scope, queues) = netdev::SCOPE;
        self.dump(&match what {
            "qstats-get" => request.attr(scope, &queues.to_ne_bytes()),
            _ => request,
        })
    }
}
