//! What a `sosreport` has in place of files: the output of programs. It is read where it is the only
//! source of something.

use super::{At, Want};
use crate::netlink::{NEIGH, SOCKETS};
use crate::proc::{printed, ss};

impl At<'_> {
    /// Whether programs were run on that host, and what they printed kept.
    pub(super) fn is_archive(&mut self) -> bool {
        !self.source.is_live() && self.source.list("sos_commands").is_ok()
    }

    /// Says where a sysctl is really from, if that is no file of its own.
    pub(super) fn stands_for(&mut self, name: &str) {
        if let Some(origin) = self.source.origin(name) {
            self.into.stands_for.insert(format!("/{name}"), origin);
        }
    }

    /// The first of these files that is there.
    fn first(&mut self, files: &[&'static str]) -> Option<(&'static str, Vec<u8>)> {
        files.iter().find_map(|file| Some((*file, self.source.read(file).ok()?)))
    }

    /// Name, kernel, time since boot; files of `/proc` that are there say it better, and are read later.
    pub(super) fn archived_host(&mut self) {
        if let Some((_, bytes)) = self.first(&printed::UNAME) {
            printed::uname(&bytes, &mut self.into);
        }
        if let Some((_, bytes)) = self.first(&printed::HOSTNAME) {
            printed::hostname(&bytes, &mut self.into);
        }
        if let Some((_, bytes)) = self.first(&printed::UPTIME) {
            printed::uptime(&bytes, &mut self.into);
        }
    }

    /// Counters of the protocols, before those of `/proc/net`, which take their places section by section.
    pub(super) fn archived_counters(&mut self) {
        self.file(printed::NSTAT, Want::MayBe, printed::nstat);
        if self.into.mib.is_empty() {
            self.file(printed::NETSTAT, Want::MayBe, printed::netstat_s);
        }
    }

    /// Sockets and neighbours, where there are no answers of netlink.
    pub(super) fn archived_sockets(&mut self) {
        let of = &self.into.sockets;
        let none = of.udp.is_empty() && of.listeners.is_empty() && of.tcp_states.is_empty();
        if none && self.source.read(ss::FILE).is_ok() {
            self.file(ss::FILE, Want::MayBe, ss::sockets);
            for name in SOCKETS {
                self.into.stands_for.insert((*name).to_owned(), ss::FILE.to_owned());
            }
        }
        if self.into.neigh_states.is_empty()
            && let Some((file, bytes)) = self.first(&printed::NEIGH)
        {
            printed::neigh(file, &bytes, &mut self.into);
            self.into.stands_for.insert(NEIGH.to_owned(), file.to_owned());
        }
    }

    /// Who may own settings.
    pub(super) fn archived_tasks(&mut self) {
        if let Some((file, bytes)) = self.first(&printed::PS) {
            printed::ps(file, &bytes, &mut self.into);
        }
    }
}
