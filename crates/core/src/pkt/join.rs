//! Packets made of others: joined to one, or given a part of another's bytes.

use super::frags::{Frag, Mem};
use super::{HEADROOM, Pkt, Pool, SMALL, Skb};

/// A place in a packet's bytes, for walking over them once.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// 0 is the head, `n` the fragment `n - 1`.
    part: usize,
    /// Bytes into that part.
    off: usize,
}

/// What is this short is copied behind the last fragment instead of becoming one of its own.
const COPYBREAK: usize = 256;

impl Skb {
    /// Moves the bytes of `other` behind those of this packet without copying what lies in
    /// fragments (`skb_try_coalesce`). `other` is empty afterwards and goes back to the pool.
    pub fn append(&mut self, other: &mut Pkt, pool: &mut Pool) -> bool {
        let head = other.head_len();
        let frags = self.frags.len() + other.frags.len() + 1;
        if frags > self.frags.capacity() {
            pool.widen(&mut self.frags, frags);
        }
        if head > 0 {
            if self.frags.is_empty() && head <= self.tailroom() {
                let at = self.tail as usize;
                self.head[at..at + head].copy_from_slice(other.head());
                self.tail += head as u32;
            } else if head > COPYBREAK || !self.put_into_last_frag(other.head()) {
                // The head's memory itself becomes a fragment; the other packet gets a new head.
                let Some(fresh) = pool.take_head() else { return false };
                let off = other.data;
                let buf = std::mem::replace(&mut other.head, fresh);
                self.frags.push(Frag { mem: Mem::Own(buf), off, len: head as u32 });
                self.frag_len += head as u32;
            }
            other.data = HEADROOM as u32;
            other.tail = HEADROOM as u32;
        }
        self.frag_len += other.frag_len;
        other.frag_len = 0;
        match other.frags.len() {
            0 => {}
            1 => {
                if let Some(frag) = other.frags.pop() {
                    self.push_frag(frag);
                }
            }
            _ => other.frags.drain(..).for_each(|frag| self.push_frag(frag)),
        }
        true
    }
    /// Adds a fragment; one that goes on in the same memory where the last one ends makes that longer
    /// (`skb_can_coalesce`).
    #[inline]
    fn push_frag(&mut self, frag: Frag) {
        let Frag { mem: Mem::Shared(chunk), off, len } = frag else { return self.frags.push(frag) };
        let chunk = match self.frags.last_mut() {
            Some(Frag { mem: Mem::Shared(last), off: at, len: have }) if *at + *have == off => {
                match last.join(chunk) {
                    Ok(()) => {
                        *have += len;
                        return;
                    }
                    Err(other) => other,
                }
            }
            _ => chunk,
        };
        self.frags.push(Frag { mem: Mem::Shared(chunk), off, len });
    }
    /// Copies `bytes` behind the last fragment if it is a small buffer of ours with room for them.
    fn put_into_last_frag(&mut self, bytes: &[u8]) -> bool {
        let Some(Frag { mem: Mem::Own(buf), off, len }) = self.frags.last_mut() else {
            return false;
        };
        let end = (*off + *len) as usize;
        // The rest of a large buffer may be somebody's plan; that of a former head is nobody's.
        if buf.len() != SMALL || buf.len() - end < bytes.len() {
            return false;
        }
        buf[end..end + bytes.len()].copy_from_slice(bytes);
        *len += bytes.len() as u32;
        self.frag_len += bytes.len() as u32;
        true
    }

    /// Where byte `off` of the packet lies; behind the last byte if there are not so many.
    pub fn cursor(&self, off: usize) -> Cursor {
        let mut at = Cursor { part: 0, off };
        while let Some(part) = self.part(at.part)
            && at.off >= part.len()
        {
            at = Cursor { part: at.part + 1, off: at.off - part.len() };
        }
        at
    }
    fn part(&self, n: usize) -> Option<&[u8]> {
        match n.checked_sub(1) {
            None => Some(self.head()),
            Some(frag) => self.frags.get(frag).map(Frag::bytes),
        }
    }
    /// Adds the first `n` bytes of `from`'s head to the end of the head.
    ///
    /// # Panics
    /// If one head has not so many, or the other no room for them, or if fragments follow it.
    #[inline]
    pub fn put_headers(&mut self, from: &Skb, n: usize) {
        const WIDE: usize = 64;
        let (at, begin) = (self.tail as usize, from.data as usize);
        let whole = from.head.get(begin..).and_then(<[u8]>::first_chunk::<WIDE>);
        if let (true, Some(whole)) = (n <= WIDE && n <= from.head_len(), whole)
            && self.frags.is_empty()
            && let Some(room) = self.head.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<WIDE>)
        {
            // What lies behind the headers is overwritten by what follows them, or meant by nobody.
            *room = *whole;
            self.tail += n as u32;
            return;
        }
        self.put(n).copy_from_slice(&from.head()[..n]);
    }
    /// Adds the `len` bytes of `from` at `at`, which moves on, to the end of the head by copying
    /// them. Returns how many there were.
    ///
    /// # Panics
    /// If the head has no such room, or if fragments follow it.
    pub fn copy_range(&mut self, from: &Skb, at: &mut Cursor, len: usize) -> usize {
        let out = self.put(len);
        let mut done = 0;
        while done < len {
            let Some(part) = from.part(at.part) else { break };
            let rest = part.get(at.off..).unwrap_or_default();
            let n = rest.len().min(len - done);
            out[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
            at.off += n;
            if n == rest.len() {
                *at = Cursor { part: at.part + 1, off: 0 };
            }
        }
        self.tail -= (len - done) as u32;
        done
    }
    /// The packet is to be cut into pieces of `size` bytes, all of which share its memory: that is counted now.
    pub fn reserve_shares(&mut self, size: usize) {
        for frag in &mut self.frags {
            if let Mem::Shared(chunk) = &mut frag.mem {
                chunk.reserve(frag.len as usize / size.max(1) + 2);
            }
        }
    }
    /// Adds the `len` bytes of `from` at `at`, which moves on, as fragments that share the send
    /// queue's memory. Stops where `from` has memory of its own. Returns how many bytes were added.
    pub fn share_range(&mut self, from: &mut Skb, at: &mut Cursor, len: usize) -> usize {
        let mut done = 0;
        while done < len {
            let Some(index) = at.part.checked_sub(1) else { break };
            let Some(Frag { mem: Mem::Shared(chunk), off, len: have }) = from.frags.get_mut(index)
            else {
                break;
            };
            let n = (*have as usize).saturating_sub(at.off).min(len - done);
            if n > 0 {
                let (off, len) = (*off + at.off as u32, n as u32);
                self.frags.push(Frag { mem: Mem::Shared(chunk.part()), off, len });
                self.frag_len += len;
            }
            done += n;
            at.off += n;
            if at.off >= *have as usize {
                *at = Cursor { part: at.part + 1, off: 0 };
            }
        }
        done
    }
    /// Takes over what is known of `from` but not its bytes, lengths, checksum state, super-packet,
    /// socket or trace number (`__copy_skb_header`).
    pub fn copy_header(&mut self, from: &Skb) {
        self.rx_time = from.rx_time;
        (self.src, self.dst) = (from.src, from.dst);
        (self.sport, self.dport) = (from.sport, from.dport);
        (self.hash, self.mark) = (from.hash, from.mark);
        (self.proto, self.ip_proto) = (from.proto, from.ip_proto);
        (self.tos, self.ttl) = (from.tos, from.ttl);
        (self.dev, self.queue) = (from.dev, from.queue);
        (self.df, self.frag) = (from.df, from.frag);
        self.l2_multicast = from.l2_multicast;
        self.vlan = from.vlan;
        self.nexthop = from.nexthop;
        self.tapped = from.tapped;
    }
}
