//! A device that receives nothing and takes everything: the contract in its shortest form.

use crate::device::{Caps, Counts, Device, Layer, RxCx};
use linerate_core::pkt::{Batch, Pkt};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// The null device.
#[derive(Clone, Copy, Debug)]
pub struct Null(Caps);

impl Null {
    /// One that claims `caps`.
    #[must_use]
    pub fn new(caps: Caps) -> Null {
        Null(caps)
    }
}

impl Default for Null {
    fn default() -> Null {
        Null(Caps {
            layer: Layer::Ip,
            mtu: 65535,
            mac: None,
            rx_offload: false,
            tx_csum: true,
            tso: true,
            uso: true,
            gso_bytes_max: 65536,
        })
    }
}

impl Device for Null {
    fn name(&self) -> &str {
        "null"
    }

    fn caps(&self) -> Caps {
        self.0
    }

    fn rx_burst(&mut self, _: &mut RxCx<'_>, _: &mut Batch, _: usize) -> io::Result<usize> {
        Ok(0)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let left = ring.len();
        done.extend(ring.drain(..).map(|pkt| (pkt, true)));
        Ok(left)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }
}
