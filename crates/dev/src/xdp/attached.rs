//! The program on its interface: [`Attached`].

use super::error::OpenError;
use super::filter::Filter;
use super::open::Mode;
use super::program::{self, Maps, XDP_PASS};
use linerate_bpf::sys::{AttachMode, Prog};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Our XDP program on an interface. It stays attached as long as this lives; every queue has a
/// share in it.
pub struct Attached {
    ifname: String,
    native: bool,
    maps: Maps,
    prog: Prog,
    /// The same program again, to take the place of the other; and which of them is attached.
    twin: Option<Prog>,
    twin_is_on: Mutex<bool>,
    filter: Mutex<Filter>,
    notes: Mutex<Notes>,
    link: OwnedFd,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached")
            .field("ifname", &self.ifname)
            .field("native", &self.native)
            .finish_non_exhaustive()
    }
}

/// What the user should know, each thing once, however many queues find it out.
#[derive(Default)]
struct Notes {
    new: Vec<String>,
    said: HashSet<String>,
}

impl Notes {
    fn add(&mut self, note: String) {
        if self.said.insert(note.clone()) {
            self.new.push(note);
        }
    }
}

/// A panic elsewhere leaves the value whole: each change of it is complete under the lock.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attached {
    /// Loads the program and attaches it. It redirects nothing before [`Attached::set_filter`].
    pub(super) fn new(
        ifname: &str,
        ifindex: u32,
        mode: Mode,
        queues: u32,
    ) -> Result<Attached, OpenError> {
        const NEEDS: &str = "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";
        let refused = |doing| move |source: io::Error| OpenError::new(doing, NEEDS, ifname, source);
        let maps = Maps::new(queues).map_err(refused("make BPF maps"))?;
        let prog =
            program::load(&maps, XDP_PASS).map_err(|err| match err.source.raw_os_error() {
                Some(libc::EPERM) => refused("load an XDP program")(err.source),
                // Without CAP_PERFMON no place in a packet may be computed.
                Some(libc::EACCES) if err.log.contains("prohibited for !root") => {
                    refused("load an XDP program")(io::Error::from_raw_os_error(libc::EPERM))
                }
                _ => OpenError::Verifier { log: err.log, source: err.source },
            })?;
        let mut notes = Notes::default();
        let attach = |mode| prog.attach(ifindex, mode);
        let (link, native) = match mode {
            Mode::Native => (attach(AttachMode::Native), true),
            Mode::Generic => (attach(AttachMode::Generic), false),
            Mode::Auto => match attach(AttachMode::Native) {
                Err(err) if !is_final(&err) => {
                    notes.add(format!(
                        "{ifname}: no native XDP ({err}): generic XDP, a packet of the kernel's is \
                         made of every frame first"
                    ));
                    (attach(AttachMode::Generic), false)
                }
                native => (native, true),
            },
        };
        let link = link.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                OpenError::Attached { ifname: ifname.to_owned(), source }
            }
            Some(libc::EOPNOTSUPP) => OpenError::NotByDriver {
                ifname: ifname.to_owned(),
                what: if native { "native XDP" } else { "XDP" },
                source,
            },
            _ => refused("attach an XDP program")(source),
        })?;
        Ok(Attached {
            ifname: ifname.to_owned(),
            native,
            prog,
            // Now, as the rights for it may be given up.
            twin: native.then(|| program::load(&maps, XDP_PASS).ok()).flatten(),
            twin_is_on: Mutex::new(false),
            maps,
            filter: Mutex::new(Filter::default()),
            notes: Mutex::new(notes),
            link,
        })
    }

    /// The interface has got queues. veth runs the program only on those that it had when it was
    /// attached (drivers/net/veth.c `veth_set_channels` sets the `xdp_prog` of no queue), so it is
    /// attached anew; the kernel does that for another program only, and so there are two.
    ///
    /// # Errors
    /// `ENOLINK` if the interface is gone; the driver's.
    pub(super) fn renew(&self) -> io::Result<()> {
        let Some(twin) = &self.twin else { return Ok(()) };
        let mut twin_is_on = lock(&self.twin_is_on);
        let next = if *twin_is_on { &self.prog } else { twin };
        next.take_place(&self.link)?;
        *twin_is_on = !*twin_is_on;
        Ok(())
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }
    /// Something that the user should know.
    pub(super) fn note(&self, note: String) {
        lock(&self.notes).add(note);
    }

    /// The interface's name.
    #[must_use]
    pub fn ifname(&self) -> &str {
        &self.ifname
    }
    /// Whether the program runs in the driver; if not, in `netif_receive_skb`.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.native
    }
    /// Whether frames may come in several pieces (Linux 5.18).
    #[must_use]
    pub fn takes_frags(&self) -> bool {
        self.prog.takes_frags()
    }
    /// What is redirected now.
    #[must_use]
    pub fn filter(&self) -> Filter {
        lock(&self.filter).clone()
    }
    /// Redirects what `filter` names from now on. What the old one and the new one have in common is
    /// redirected without a gap.
    ///
    /// # Errors
    /// `E2BIG` beyond 4096 addresses and groups or 65 536 services; the old filter stays.
    pub fn set_filter(&self, filter: &Filter) -> io::Result<()> {
        let mut now = lock(&self.filter);
        self.maps.set(&now, filter)?;
        now.clone_from(filter);
        Ok(())
    }
    /// What the user should know, each once: what was lost on the way to the best mode, checksums
    /// that the sender leaves out. The queues add to it as they find out.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.notes).new)
    }
}

/// Errors that the other mode would not change.
fn is_final(err: &io::Error) -> bool {
    let errno = err.raw_os_error();
    matches!(errno, Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_queue_finds_out_is_said_once() {
        let mut notes = Notes::default();
        let each = |notes: &mut Notes| (0..4).for_each(|_| notes.add("v0: copied".to_owned()));
        each(&mut notes);
        assert_eq!(std::mem::take(&mut notes.new), ["v0: copied"]);
        // A queue that is opened again finds the same.
        each(&mut notes);
        notes.add("v0: something else".to_owned());
        assert_eq!(notes.new, ["v0: something else"]);
    }
}
