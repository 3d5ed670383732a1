//! AF_XDP: frames of an interface's queues in memory that we share with the kernel.
//!
//! [`open`] attaches a program of ours ([`program`]) to the interface and binds a socket to each
//! queue that is asked for. The program redirects what a [`Filter`] names; everything else goes on
//! into the kernel. The sockets share one UMEM, and each is a [`Device`](crate::Device) of its own,
//! [`Xsk`], for a worker of its own.
//!
//! The program is attached by a link: it goes with the last handle to it, and so with the process,
//! however that ends. A program that somebody else attached is never replaced.
//!
//! Flows can not be moved to other queues by the program: a socket receives from the queue it is
//! bound to and from no other (`xsk_rcv_check`), so the network card's rules and hash decide, and
//! what belongs elsewhere is passed on between shards.
//!
//! Linux: net/xdp/, kernel/bpf/, Documentation/networking/af_xdp.rst.

mod attached;
mod chunks;
mod csum;
mod error;
mod filter;
mod open;
pub mod program;
pub mod ring;
mod umem;
mod xsk;

pub use attached::Attached;
pub use error::OpenError;
pub use filter::{Filter, Service};
pub use open::{BusyPoll, Config, CopyMode, Mode, Opened, Queues, RING_MAX, open};
pub use xsk::Xsk;
