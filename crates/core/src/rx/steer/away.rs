//! Connections that do not live where their packets arrive: the packets go after them, in order.
//!
//! Linux: none

use super::homes::FlowKey;
use super::post::Note;
use super::rps::Progress;
use super::{Net, Pkt, Way};
use crate::link::L2;
use crate::rand::{KeyedMap, Rng};
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, Mac};

/// Where this shard sends one such connection's packets.
struct Sent {
    /// The shard to which the last went: where it lives, or lived.
    cpu: u8,
    /// Place of that packet in the queue of `cpu`, if that is another shard.
    last_qtail: u32,
    /// The batch in which it was sent.
    batch: u32,
    /// Place of its last packet in our own queue.
    own_qtail: u32,
}

/// The connections elsewhere that this shard has sent packets to.
pub(super) struct Away {
    sent: KeyedMap<FlowKey, Sent>,
    /// With more entries than this, those of connections that are over are swept out.
    sweep_above: usize,
}

/// Entries beyond twice as many as the last sweep left are swept out.
const SLACK: usize = 1024;

impl Away {
    pub fn new(seed: u64) -> Away {
        Away { sent: KeyedMap::with_hasher(Rng::new(seed).keyed()), sweep_above: SLACK }
    }
    /// Where a packet of this connection goes that the device gave. It went to `prior` as long as
    /// nobody knew that it lives elsewhere; `None` if such packets wait. Returns `None` if nothing is
    /// known of it.
    pub fn steer(
        &mut self,
        key: &FlowKey,
        prior: Option<u8>,
        batch: u32,
        at: &Progress<'_>,
    ) -> Option<Way> {
        let Some(home) = at.mesh.homes.find(key) else {
            self.sent.remove(key);
            return None;
        };
        self.sweep(at);
        let sent = match (self.sent.get_mut(key), prior) {
            (Some(sent), _) => sent,
            (None, None) => return Some(Way::Wait),
            (None, Some(prior)) if prior == home => return None,
            (None, Some(prior)) => {
                // All that was sent there counts as this connection's, also what has no place yet.
                let fresh = if at.pending(prior) { batch } else { batch.wrapping_sub(1) };
                let own_qtail = at.tail(at.cpu);
                let sent = Sent { cpu: prior, last_qtail: at.tail(prior), batch: fresh, own_qtail };
                self.sent.entry(*key).or_insert(sent)
            }
        };
        // Packets of it wait in our own queue, to be sent on from there: this one goes behind them.
        let cpu =
            if at.through(at.cpu, sent.own_qtail) { sent.on(home, batch, at) } else { at.cpu };
        Some(Way::Cpu(cpu, Some(Note::Away { key: *key, own: cpu == at.cpu })))
    }
    /// Whether packets of this connection were sent from here to where it lives.
    pub fn knows(&self, key: &FlowKey) -> bool {
        self.sent.contains_key(key)
    }
    /// Where a packet of this connection goes on to that went all the way here in vain.
    fn forward(&mut self, key: &FlowKey, home: u8, batch: u32, at: &Progress<'_>) -> Way {
        self.sweep(at);
        let own_qtail = at.head(at.cpu);
        let new = Sent { cpu: home, last_qtail: at.head(home), batch, own_qtail };
        let cpu = self.sent.entry(*key).or_insert(new).on(home, batch, at);
        Way::Cpu(cpu, Some(Note::Away { key: *key, own: cpu == at.cpu }))
    }
    fn sweep(&mut self, at: &Progress<'_>) {
        if self.sent.len() > self.sweep_above {
            self.sent.retain(|key, _| at.mesh.homes.find(key).is_some());
            // However many of them live, a sweep is paid for by as many new entries.
            self.sweep_above = 2 * self.sent.len() + SLACK;
        }
    }
    /// The place that a packet got, in our own queue or in another shard's.
    pub fn sent(&mut self, key: &FlowKey, own: bool, place: u32) {
        if let Some(sent) = self.sent.get_mut(key) {
            *if own { &mut sent.own_qtail } else { &mut sent.last_qtail } = place;
        }
    }
}

impl Sent {
    /// The shard to send to, if the connection lives on `home`: that one, as soon as the one before is
    /// through; until then that one sends it on.
    fn on(&mut self, home: u8, batch: u32, at: &Progress<'_>) -> u8 {
        let before = self.cpu;
        let through = before == at.cpu
            || !at.mesh.online(before)
            || self.batch != batch && at.through(before, self.last_qtail);
        if before != home && through {
            (self.cpu, self.last_qtail) = (home, at.head(home));
        }
        if self.cpu != at.cpu {
            self.batch = batch;
        }
        self.cpu
    }
}

/// A TCP packet came to a shard that has no connection for it: if the connection lives elsewhere,
/// the packet goes after it.
///
/// It stands at its transport header, as Demux sees it, and is put back to where the frame begins.
/// It was counted by the stages before; those of the other shard count it again.
///
/// # Errors
/// The packet: nobody else has a connection for it, it is this shard's to answer.
pub fn forward(net: &mut Net, mut pkt: Pkt) -> Result<(), Pkt> {
    let Some(mesh) = net.steer.mesh.clone() else { return Err(pkt) };
    let key = FlowKey::of(pkt.src, pkt.dst, (pkt.sport, pkt.dport));
    let Some(home) = mesh.homes.find(&key) else { return Err(pkt) };
    if home == net.cpu && !mesh.has_mail(net.cpu as usize) {
        // It is neither here nor in the mail: it is over.
        mesh.homes.forget(&key, home);
        return Err(pkt);
    }
    if !mesh.online(home) || !put_back(net, &mut pkt) {
        return Err(pkt);
    }
    // From now on it is looked up before it is steered.
    mesh.homes.stray(&key);
    let own = (net.backlog.own_tail(), net.backlog.own_head());
    let steer = &mut net.steer;
    let at = Progress { mesh: &mesh, cpu: net.cpu, sent: &steer.sent, own, pending: steer.out_to };
    match steer.away.forward(&key, home, steer.batch, &at) {
        Way::Cpu(cpu, note) if cpu != net.cpu => net.post_pkt(cpu, pkt, note),
        Way::Cpu(_, note) => net.requeue(note, pkt),
        Way::Wait => net.requeue(None, pkt),
    }
    Ok(())
}

/// Puts the packet back to the beginning of its frame; false if that can not be found.
fn put_back(net: &Net, pkt: &mut Pkt) -> bool {
    let Some(iface) = net.ifaces.get(pkt.dev as usize) else { return false };
    let link = match iface.l2 {
        L2::Ethernet => {
            let ours = |dst: Mac| dst == iface.mac || dst.is_multicast() || net.knobs.promisc;
            match [14, 18, 22].into_iter().find(|len| is_link_header(pkt, *len, ours)) {
                Some(len) => len,
                None => return false,
            }
        }
        L2::Ip | L2::Loopback => 0,
    };
    let begin = pkt.network.checked_sub(link).and_then(|at| pkt.data_offset().checked_sub(at));
    if let Some(n) = begin {
        pkt.push(n as usize);
        pkt.vlan = None;
    }
    begin.is_some()
}

/// Whether the `len` bytes before the network header are its link header, with as many tags as that
/// takes.
fn is_link_header(pkt: &Pkt, len: u32, ours: impl Fn(Mac) -> bool) -> bool {
    let Some(at) = pkt.network.checked_sub(len) else { return false };
    let hdr = pkt.behind(at, len as usize);
    let Some(dst) = hdr.first_chunk::<6>() else { return false };
    let types = hdr.get(12..).unwrap_or_default().chunks_exact(4);
    let last = hdr.last_chunk::<2>().map(|b| u16::from_be_bytes(*b));
    let tag = |b: &[u8]| {
        b.first_chunk()
            .is_some_and(|b| matches!(u16::from_be_bytes(*b), ETH_P_8021Q | ETH_P_8021AD))
    };
    ours(Mac(*dst)) && types.into_iter().all(tag) && last == Some(pkt.proto)
}
