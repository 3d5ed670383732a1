//! What the kernel tells by netlink, and by the ioctls that netlink has not replaced.
//!
//! ```text
//! Live: name -> request -> bytes of the answer     (recorded and replayed by that name)
//! collect: names -> bytes -> parsers -> Snapshot
//! apply, read_back: Change -> request, file
//! ```
//!
//! Parsers are total: bytes that are cut, foreign or garbage give less, never a panic and never a
//! number that is not there. What this kernel lacks (families, attributes, drivers' parts) is a note
//! in the snapshot where it would have mattered.
//!
//! Names beside those that [`crate::source`] lists: `netlink/sock_diag/{tcp,tcp6}-listen` are listening
//! sockets; `tcp` and `tcp6` all others: if they are few, with all that is known of each; if they are
//! many, in brief, and `tcp-info` has all of those that say most. `owners` are lines `INODE PID NAME` for
//! the sockets read before it.
mod attr;
mod socket;
mod live;
mod link;
mod kind;
mod qdisc;
mod class;
mod filter;
mod conntrack;
mod neigh;
mod diag;
mod tcp_info;
mod owners;
mod ethtool;
mod netdev;
mod change;

use std::collections::BTreeMap;
use std::io;

pub use change::{apply, read_back};
pub(crate) use change::{apply_in, read_back_in};
pub(crate) use link::STATS64;
pub use live::Live;
pub(crate) use neigh::NEIGH;

use crate::collect::Tier;
use crate::snapshot::{Dev, Snapshot};
use crate::source::Source;

/// The names of requests for sockets begin so.
const DIAG: &str = "netlink/sock_diag";
/// What rules cite of sockets.
pub(crate) const SOCKETS: &[&str] =
    &["netlink/sock_diag/tcp", "netlink/sock_diag/udp", "netlink/sock_diag/packet"];
const TCP_INFO: &str = "netlink/sock_diag/tcp-info";
const XDP: &str = "netlink/sock_diag/xdp";

/// Reads what netlink tells into a snapshot: in the basic tier devices and qdiscs, in the full tier
/// all. Best called last: it adds to devices that others have begun.
pub fn collect(source: &mut dyn Source, tier: Tier, into: &mut Snapshot) {
    let mut at = At { source, into };
    let links = match at.source.read(link::NAME) {
        Ok(links) => links,
        Err(e) => {
            at.into.note("netlink", why(&e));
            if !at.source.is_live() {
                return;
            }
            Vec::new()
        }
    };
    link::links(&links, at.into);
    let names = link::names(&links);
    if let Some(bytes) = at.read(qdisc::NAME) {
        qdisc::qdiscs(&bytes, &names, at.into);
    }
    if tier == Tier::Full {
        at.classes_and_filters(&names);
        at.neighbours();
        at.conntrack();
        at.ethtool();
        at.drivers();
        at.netdev();
        at.sockets(&names);
    }
}

/// Reads the TCP sockets of both families but for listening ones: how many are in which state, ports in
/// use, and those that say most. [`collect`] does this in the full tier.
pub fn tcp(source: &mut dyn Source, into: &mut Snapshot) {
    At { source, into }.tcp();
}

struct At<'a> {
    source: &'a mut dyn Source,
    into: &'a mut Snapshot,
}

impl At<'_> {
    // What cannot be read is noted.
    fn read(&mut self, name: &str) -> Option<Vec<u8>> {
        match self.source.read(name) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                self.into.note(name, why(&e));
                None
            }
        }
    }

    fn with(&mut self, name: &str, parse: impl FnOnce(&[u8], &mut Snapshot)) {
        if let Some(bytes) = self.read(name) {
            parse(&bytes, self.into);
        }
    }

    /// Of devices whose qdiscs may have some: who has none pays nothing.
    fn classes_and_filters(&mut self, names: &BTreeMap<u32, String>) {
        let plain = |kind: &str| filter::WITHOUT.contains(&kind) && kind != "mq";
        let all = self.into.devs.values();
        if all.flat_map(|dev| &dev.qdiscs).all(|qdisc| plain(&qdisc.kind)) {
            return;
        }
        self.known(class::NAME, |bytes, into| class::classes(bytes, names, into));
        self.known(filter::NAME, |bytes, into| filter::filters(bytes, names, into));
    }

    /// What an older record has not is no news.
    fn known(&mut self, name: &str, parse: impl FnOnce(&[u8], &mut Snapshot)) {
        match self.source.read(name) {
            Ok(bytes) => parse(&bytes, self.into),
            Err(e) if is_absence(&e) => {}
            Err(e) => self.into.note(name, why(&e)),
        }
    }

    /// Where `/proc/net/stat/nf_conntrack` is not (kernels without `NF_CONNTRACK_PROCFS`).
    fn conntrack(&mut self) {
        let read = self.into.conntrack.as_ref().is_some_and(|c| !c.stat.is_empty());
        if read {
            return;
        }
        if let Ok(bytes) = self.source.read(conntrack::CPUS) {
            conntrack::cpus(&bytes, self.into);
        }
        if let Ok(bytes) = self.source.read(conntrack::TABLE) {
            conntrack::table(&bytes, self.into);
        }
    }

    fn neighbours(&mut self) {
        self.with(neigh::NEIGH, neigh::neighbours);
        self.with(neigh::ROUTE, neigh::routes);
    }

    fn ethtool(&mut self) {
        type Parse = fn(&[u8], &mut Snapshot);
        let name = |what: &str| format!("{}{what}", ethtool::PREFIX);
        let names = self.source.read(&name("STRSET_GET")).map(|b| ethtool::feature_names(&b));
        match names.and_then(|names| Ok((names, self.source.read(&name("FEATURES_GET"))?))) {
            Ok((names, bytes)) => ethtool::features(&bytes, &names, self.into),
            Err(_) => self.each_dev("features", ethtool::legacy::features),
        }
        // Kernels before 5.6 have ioctls only, those before 5.8 some messages less.
        let numbers: [(&str, &str, Parse); 4] = [
            ("RINGS_GET", "rings", ethtool::rings),
            ("CHANNELS_GET", "channels", ethtool::channels),
            ("COALESCE_GET", "coalesce", ethtool::coalesce),
            ("PAUSE_GET", "pause", ethtool::pause),
        ];
        for (message, ioctl, parse) in numbers {
            match self.source.read(&name(message)) {
                Ok(bytes) => parse(&bytes, self.into),
                Err(_) => {
                    self.each_dev(ioctl, |bytes, dev| ethtool::legacy::numbers(ioctl, bytes, dev));
                }
            }
        }
        // These have no ioctl; both came with 5.13.
        self.with(&name("FEC_GET"), ethtool::fec);
        self.with(&name("STATS_GET"), ethtool::stats);
    }

    fn drivers(&mut self) {
        self.each_dev("drvinfo", ethtool::legacy::drvinfo);
        self.each_dev("stats", ethtool::legacy::stats);
        self.each_dev("rxfh", ethtool::legacy::rxfh);
        if self.into.devs.values().any(|d| d.rss.is_some()) {
            self.each_dev("rxclass", |bytes, dev| {
                dev.rss.is_some().then(|| ethtool::legacy::rxclass(bytes, dev))?
            });
        }
    }

    fn each_dev(&mut self, what: &str, parse: impl Fn(&[u8], &mut Dev) -> Option<()>) {
        for dev in self.into.devs.values_mut() {
            let name = format!("{}{what}/{}", ethtool::legacy::PREFIX, dev.name);
            match self.source.read(&name) {
                Ok(bytes) => {
                    // Of bytes that are cut, what was read of them stays away.
                    let _ = parse(&bytes, dev);
                }
                // Most devices have no such thing; one may have gone.
                Err(e) if is_absence(&e) => {}
                Err(e) => {
                    let note = crate::snapshot::Note { what: name, why: why(&e) };
                    if !self.into.notes.contains(&note) {
                        self.into.notes.push(note);
                    }
                }
            }
        }
    }

    fn netdev(&mut self) {
        let name = |what: &str| format!("{}{what}", netdev::PREFIX);
        match self.source.read(&name("napi-get")) {
            Ok(bytes) => {
                netdev::napis(&bytes, self.into);
                // It came with napi-get.
                self.known(&name("queue-get"), netdev::queues);
                self.with(&name("qstats-get"), netdev::qstats);
                self.with(&name("page-pool-get"), netdev::page_pools);
                self.with(&name("page-pool-stats-get"), netdev::page_pool_stats);
            }
            Err(e) => self.into.note(netdev::PREFIX.trim_end_matches('/'), why(&e)),
        }
    }

    fn sockets(&mut self, names: &BTreeMap<u32, String>) {
        let name = |what: &str| format!("{DIAG}/{what}");
        self.with(&name("tcp-listen"), diag::listeners);
        self.with(&name("tcp6-listen"), diag::listeners);
        self.with(&name("udp"), diag::udp);
        self.with(&name("udp6"), diag::udp);
        self.tcp();
        let name_of = |index: u32| names.get(&index).cloned();
        self.with(&name("packet"), |bytes, into| {
            // The same as /proc/net/packet shows, with drops.
            into.sockets.taps.clear();
            diag::packet(bytes, name_of, into);
        });
        if let Ok(bytes) = self.source.read(XDP) {
            diag::xdp(&bytes, name_of, self.into);
        }
        self.with(&name("owners"), owners::owners);
    }

    fn tcp(&mut self) {
        let name = |what: &str| format!("{DIAG}/{what}");
        let brief = [self.read(&name("tcp")), self.read(&name("tcp6"))];
        let brief: Vec<&[u8]> = brief.iter().flatten().map(Vec::as_slice).collect();
        if !brief.is_empty() {
            tcp_info::summary(&brief, self.into);
            if brief.iter().any(|bytes| diag::are_whole(bytes)) {
                brief.iter().for_each(|bytes| diag::tcp_info(bytes, self.into));
            } else if self.into.sockets.tcp_states.iter().any(|(_, count)| count > 0) {
                self.with(TCP_INFO, diag::tcp_info);
            }
            tcp_info::sort(self.into);
        }
    }
}

/// Inodes of the packet sockets of an answer.
fn inodes_of_taps(bytes: &[u8]) -> impl Iterator<Item = u64> {
    attr::messages(bytes).filter_map(|m| attr::u32_at(m.body, 4)).map(u64::from)
}

fn is_absence(e: &io::Error) -> bool {
    let absent = [libc::EOPNOTSUPP, libc::ENODEV, libc::EINVAL, libc::ENOENT];
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error().is_some_and(|n| absent.contains(&n))
}

fn why(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "not there: this kernel or this source lacks it".into(),
        io::ErrorKind::PermissionDenied => "refused: root (CAP_NET_ADMIN) is needed".into(),
        io::ErrorKind::Unsupported => "this kernel is built without it".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests;
