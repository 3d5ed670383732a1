//! What `up` gives up once its devices are open, and what it keeps: queues are opened and the host's
//! settings put back later, too.
//!
//! The kernel's rights are those of a thread. The threads that handle packets keep none; the main
//! thread, which opens queues, keeps those of its backends.

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::args::DevBackend;
use super::backend::Opened;

/// What is needed as long as it runs, by these backends.
///
/// `CAP_NET_ADMIN` changes settings of interfaces, and puts them back at the end. `CAP_NET_RAW` opens
/// packet and AF_XDP sockets. Of AF_XDP, `CAP_BPF` changes the program's maps where the kernel lets
/// nobody else do so (`kernel.unprivileged_bpf_disabled` before Linux 5.19), and `CAP_IPC_LOCK`
/// registers packet memory beyond `RLIMIT_MEMLOCK`, when the only queue is opened anew.
fn needed(backends: impl Iterator<Item = DevBackend>) -> CapabilitySet {
    backends.fold(CapabilitySet::NET_ADMIN, |all, backend| {
        all | match backend {
            DevBackend::AfPacket => CapabilitySet::NET_RAW,
            DevBackend::AfXdp | DevBackend::Auto => {
                CapabilitySet::NET_RAW | CapabilitySet::BPF | CapabilitySet::IPC_LOCK
            }
            DevBackend::Tap | DevBackend::Tun => CapabilitySet::empty(),
        }
    })
}

/// The calling thread gives up what the devices do not need, for itself and for all threads that it
/// starts; nobody gets anything by executing a program.
///
/// # Errors
/// A sentence.
pub(super) fn drop_for(devices: &[Opened]) -> Result<(), String> {
    keep(needed(devices.iter().map(|d| d.backend)))
        .map_err(|e| format!("cannot give up capabilities: {e}"))
}

/// The calling thread gives up all of them.
///
/// # Errors
/// A sentence.
pub(super) fn drop_all() -> Result<(), String> {
    keep(CapabilitySet::empty()).map_err(|e| format!("cannot give up capabilities: {e}"))
}

fn keep(wanted: CapabilitySet) -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let held = rustix::thread::capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        // One bit at a time; those that this kernel does not know are of no use to anybody.
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
                rustix::thread::remove_capability_from_bounding_set(one)?;
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let kept = held.permitted & wanted;
    let none = CapabilitySet::empty();
    let sets =
        CapabilitySets { effective: held.effective & kept, permitted: kept, inheritable: none };
    rustix::thread::set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backend_needs_later_is_kept() {
        use CapabilitySet as C;
        let of = |backends: &[DevBackend]| needed(backends.iter().copied());
        assert_eq!(of(&[DevBackend::Tap]), C::NET_ADMIN);
        assert_eq!(of(&[DevBackend::Tun, DevBackend::AfPacket]), C::NET_ADMIN | C::NET_RAW);
        let xdp = C::NET_ADMIN | C::NET_RAW | C::BPF | C::IPC_LOCK;
        assert_eq!(of(&[DevBackend::AfXdp, DevBackend::Tap]), xdp);
    }
}
