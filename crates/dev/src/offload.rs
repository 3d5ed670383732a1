//! Between a `virtio_net_hdr` and what a [`Pkt`] says about itself, and the gathering of a packet
//! from its parts, for the devices that read and write both.

use crate::vnet::{Gso as VnetGso, NeedsCsum, Vnet, VnetError};
use linerate_core::pkt::{Csum, Gso, GsoKind, Pkt};
use std::io::{self, IoSlice};

const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
const ETH_ALEN_TWICE: usize = 12;

/// Bytes before the network header of an Ethernet frame: 14, and 4 for each of at most two VLAN
/// tags in it.
pub(crate) fn ether_len(frame: &[u8]) -> usize {
    let mut at = ETH_ALEN_TWICE;
    for _ in 0..2 {
        match frame.get(at..at + 2) {
            Some(&[a, b]) if matches!(u16::from_be_bytes([a, b]), ETH_P_8021Q | ETH_P_8021AD) => {
                at += 4;
            }
            _ => break,
        }
    }
    at + 2
}

/// Writes what the header said into the packet, whose network header lies `l2` bytes behind its
/// start. A header that says nothing costs nothing.
///
/// # Errors
/// [`VnetError`] if the header contradicts the packet's own headers.
#[inline]
pub(crate) fn receive(pkt: &mut Pkt, vnet: Vnet, l2: usize) -> Result<(), VnetError> {
    match vnet.needs_csum {
        Some(needs) => {
            let start = usize::from(needs.start).checked_sub(l2).ok_or(VnetError::CsumRange)?;
            let start = u16::try_from(start).map_err(|_| VnetError::CsumRange)?;
            pkt.csum = Csum::Partial { start, offset: needs.offset };
            if let Some(gso) = vnet.gso {
                pkt.gso = gso_of(pkt, gso, l2, usize::from(needs.start))?;
            }
        }
        None if vnet.data_valid => pkt.csum = Csum::Verified,
        None => {}
    }
    Ok(())
}

/// The super-packet's description with its segments counted; `None` if it is but one.
fn gso_of(pkt: &Pkt, gso: VnetGso, l2: usize, transport: usize) -> Result<Option<Gso>, VnetError> {
    let head = pkt.head();
    let version = head.get(l2).ok_or(VnetError::GsoHeaders)? >> 4;
    let (version_fits, ip_len) = match gso.kind {
        GsoKind::Tcp4 => (version == 4, 20),
        GsoKind::Tcp6 => (version == 6, 40),
        GsoKind::Udp => (version == 4 || version == 6, 20),
    };
    let headers = transport_end(head, transport, gso.kind).ok_or(VnetError::GsoHeaders)?;
    if !version_fits || transport < l2 + ip_len {
        return Err(VnetError::GsoHeaders);
    }
    let payload = pkt.len().checked_sub(headers).ok_or(VnetError::GsoHeaders)?;
    let segs = payload.div_ceil(usize::from(gso.size));
    let segs = u16::try_from(segs).map_err(|_| VnetError::GsoSize)?;
    Ok((segs > 1).then_some(Gso { kind: gso.kind, size: gso.size, segs, ecn: gso.ecn }))
}

/// Where the payload begins, if the transport header at `at` lies in the head as a whole.
fn transport_end(head: &[u8], at: usize, kind: GsoKind) -> Option<usize> {
    let len = match kind {
        GsoKind::Udp => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => match usize::from(*head.get(at + 12)? >> 4) * 4 {
            len @ 20.. => len,
            _ => return None,
        },
    };
    (at + len <= head.len()).then_some(at + len)
}

/// The header for a packet that is to be sent. `inserted` bytes are put between its start and its
/// network header on the way out.
///
/// `None` if the packet says of itself what no header can express: a super-packet without a
/// partial checksum, or with transport headers that are not in its head.
#[inline]
pub(crate) fn transmit(pkt: &Pkt, inserted: usize) -> Option<Vnet> {
    let Csum::Partial { start, offset } = pkt.csum else {
        let data_valid = pkt.csum == Csum::Verified;
        return pkt.gso.is_none().then_some(Vnet { data_valid, ..Vnet::default() });
    };
    let l2 = pkt.network.checked_sub(pkt.data_offset())? as usize;
    let in_head = l2 + usize::from(start);
    let on_wire = |at: usize| u16::try_from(at + inserted).ok();
    let gso = match pkt.gso {
        None => None,
        Some(gso) => Some(VnetGso {
            kind: gso.kind,
            size: gso.size,
            hdr_len: on_wire(transport_end(pkt.head(), in_head, gso.kind)?)?,
            ecn: gso.ecn,
        }),
    };
    let needs_csum = Some(NeedsCsum { start: on_wire(in_head)?, offset });
    Some(Vnet { needs_csum, data_valid: false, gso })
}

/// Calls `write` with `prefix` and then the packet from byte `skip` of its head on, as slices in
/// place. Only a packet in more than 70 parts is copied together.
pub(crate) fn gather<T>(
    prefix: &[&[u8]],
    pkt: &Pkt,
    skip: usize,
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<T>,
) -> io::Result<T> {
    match pkt.nr_frags() {
        0..=4 => gather_in::<8, T>(prefix, pkt, skip, write),
        5..=70 => gather_in::<74, T>(prefix, pkt, skip, write),
        _ => {
            let mut all = Vec::with_capacity(pkt.len());
            pkt.slices().for_each(|s| all.extend_from_slice(s));
            let mut parts: Vec<IoSlice<'_>> = prefix.iter().map(|p| IoSlice::new(p)).collect();
            parts.push(IoSlice::new(all.get(skip..).unwrap_or_default()));
            write(&parts)
        }
    }
}

fn gather_in<const N: usize, T>(
    prefix: &[&[u8]],
    pkt: &Pkt,
    skip: usize,
    write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<T>,
) -> io::Result<T> {
    let mut parts = [IoSlice::new(&[]); N];
    let head_rest = pkt.head().get(skip..).unwrap_or_default();
    let frags = pkt.slices().skip(usize::from(pkt.head_len() > 0));
    let all = prefix.iter().copied().chain([head_rest]).chain(frags);
    let mut used = 0;
    for (part, bytes) in parts.iter_mut().zip(all) {
        *part = IoSlice::new(bytes);
        used += 1;
    }
    write(parts.get(..used).unwrap_or_default())
}

#[cfg(test)]
mod tests;
