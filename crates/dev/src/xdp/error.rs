//! Why AF_XDP could not be opened, in words that say what to do.

use std::fmt;
use std::io;

/// Why there is no AF_XDP device. Every kind carries the errno.
#[derive(Debug)]
pub enum OpenError {
    /// A value in the configuration makes no sense; nothing was touched.
    Config(&'static str),
    /// There is no such interface, or it is down (`ENODEV`, `ENETDOWN`).
    NoDevice {
        /// Its name.
        ifname: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The interface does not have this queue (`EINVAL`).
    NoQueue {
        /// Its name.
        ifname: String,
        /// The queue that was asked for.
        queue: u32,
        /// How many there are.
        has: u32,
    },
    /// This process may not do it (`EPERM`).
    Privilege {
        /// What it may not do: completes "cannot …".
        doing: &'static str,
        /// The capabilities that it takes.
        needs: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another XDP program is attached to the interface; it was left alone (`EBUSY`).
    Attached {
        /// The interface.
        ifname: String,
        /// The kernel's answer: `EBUSY`, or `EEXIST` if it is attached in the other mode.
        source: io::Error,
    },
    /// Another AF_XDP socket has the queue (`EBUSY`).
    QueueBusy {
        /// The interface.
        ifname: String,
        /// The queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Zero-copy or native XDP was demanded, and the driver has none (`EOPNOTSUPP`).
    NotByDriver {
        /// The interface.
        ifname: String,
        /// What the driver lacks.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel may not pin so much memory (`ENOBUFS`, `ENOMEM`).
    Memory {
        /// Bytes that were asked for.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel's verifier refused the program: a fault of ours.
    Verifier {
        /// What it said.
        log: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Anything else that the kernel refused.
    Refused {
        /// What was tried: completes "cannot …".
        doing: &'static str,
        /// The interface.
        ifname: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl OpenError {
    /// The errno, if it came to a system call.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpenError::Config(_) | OpenError::NoQueue { .. } => Some(libc::EINVAL),
            OpenError::NoDevice { source, .. }
            | OpenError::Privilege { source, .. }
            | OpenError::Attached { source, .. }
            | OpenError::QueueBusy { source, .. }
            | OpenError::NotByDriver { source, .. }
            | OpenError::Memory { source, .. }
            | OpenError::Verifier { source, .. }
            | OpenError::Refused { source, .. } => source.raw_os_error(),
        }
    }

    /// An errno that means the same wherever it comes from, or [`OpenError::Refused`].
    pub(super) fn new(
        doing: &'static str,
        needs: &'static str,
        ifname: &str,
        source: io::Error,
    ) -> OpenError {
        let ifname = ifname.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::Privilege { doing, needs, source },
            Some(libc::ENODEV | libc::ENXIO | libc::ENETDOWN) => {
                OpenError::NoDevice { ifname, source }
            }
            _ => OpenError::Refused { doing, ifname, source },
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Config(what) => f.write_str(what),
            OpenError::NoDevice { ifname, source } => write!(
                f,
                "cannot use interface {ifname}: {source}; `ip link show` lists those there are in \
                 this network namespace, `ip link set {ifname} up` brings it up"
            ),
            OpenError::NoQueue { ifname, queue, has } => write!(
                f,
                "{ifname} has no receive queue {queue}: it has {has}, counted from 0; ask for fewer, \
                 or give it more with `ethtool -L {ifname} combined {}`",
                queue + 1
            ),
            OpenError::Privilege { doing, needs, source } => write!(
                f,
                "cannot {doing}: {source}; this needs {needs} in the first user namespace (run as \
                 root, or `setcap` the program); AF_PACKET needs less"
            ),
            OpenError::Attached { ifname, source } => write!(
                f,
                "another XDP program is attached to {ifname} and was left alone: {source}; stop the \
                 program that attached it, or take it off with `ip link set dev {ifname} xdp off` \
                 (`ip -d link show dev {ifname}` shows it)"
            ),
            OpenError::QueueBusy { ifname, queue, source } => write!(
                f,
                "queue {queue} of {ifname} has an AF_XDP socket already: {source}; stop the program \
                 that holds it, or ask for other queues"
            ),
            OpenError::NotByDriver { ifname, what, source } => write!(
                f,
                "the driver of {ifname} has no {what}: {source}; ask for `auto`, which goes without"
            ),
            OpenError::Memory { bytes, source } => write!(
                f,
                "cannot pin {bytes} bytes of packet memory: {source}; raise `ulimit -l`, give the \
                 program CAP_IPC_LOCK, or ask for fewer frames"
            ),
            OpenError::Verifier { log, source } => write!(
                f,
                "the kernel's verifier refused our XDP program: {source}; please report it with \
                 this log:\n{log}"
            ),
            OpenError::Refused { doing, ifname, source } => {
                write!(f, "cannot {doing} on {ifname}: {source}")
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Config(_) | OpenError::NoQueue { .. } => None,
            OpenError::NoDevice { source, .. }
            | OpenError::Privilege { source, .. }
            | OpenError::Attached { source, .. }
            | OpenError::QueueBusy { source, .. }
            | OpenError::NotByDriver { source, .. }
            | OpenError::Memory { source, .. }
            | OpenError::Verifier { source, .. }
            | OpenError::Refused { source, .. } => Some(source),
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(err: OpenError) -> io::Error {
        let kind = err
            .errno()
            .map_or(io::ErrorKind::Other, |errno| io::Error::from_raw_os_error(errno).kind());
        io::Error::new(kind, err)
    }
}
