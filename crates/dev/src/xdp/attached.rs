//! The program on its interface: [`Attached`].

use super::error::OpenError;
use super::filter::Filter;
use super::open::Mode;
use super::program::{self, Maps, XDP_PASS};
use crate::sys::bpf::{AttachMode, Prog};
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
    filter: Mutex<Filter>,
    notes: Mutex<Vec<String>>,
    _link: OwnedFd,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached")
            .field("ifname", &self.ifname)
            .field("native", &self.native)
            .finish_non_exhaustive()
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
        const NEEDS: &str = "CAP_BPF and CAP_NET_ADMIN";
        let refused = |doing| move |source: io::Error| OpenError::new(doing, NEEDS, ifname, source);
        let maps = Maps::new(queues).map_err(refused("make BPF maps"))?;
        let prog =
            program::load(&maps, XDP_PASS).map_err(|err| match err.source.raw_os_error() {
                Some(libc::EPERM) => refused("load an XDP program")(err.source),
                _ => OpenError::Verifier { log: err.log, source: err.source },
            })?;
        let mut notes = Vec::new();
        let attach = |mode| prog.attach(ifindex, mode);
        let (link, native) = match mode {
            Mode::Native => (attach(AttachMode::Native), true),
            Mode::Generic => (attach(AttachMode::Generic), false),
            Mode::Auto => match attach(AttachMode::Native) {
                Err(err) if !is_final(&err) => {
                    notes.push(format!(
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
            maps,
            prog,
            filter: Mutex::new(Filter::default()),
            notes: Mutex::new(notes),
            _link: link,
        })
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }
    /// Something that the user should know.
    pub(super) fn note(&self, note: String) {
        lock(&self.notes).push(note);
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
        std::mem::take(&mut lock(&self.notes))
    }
}

/// Errors that the other mode would not change.
fn is_final(err: &io::Error) -> bool {
    let errno = err.raw_os_error();
    matches!(errno, Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV))
}
