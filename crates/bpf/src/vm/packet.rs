//! The packet that a program works on, and what surrounds it.

/// What follows the bytes that a program may reach by pointers (fragments).
pub trait Rest {
    /// Bytes that there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies bytes from offset `off` on, as many as fit and there are.
    fn copy(&self, off: usize, out: &mut [u8]);
}

/// A packet, in memory with room before and behind it (`struct xdp_buff`).
pub struct Packet<'a> {
    pub(super) mem: &'a mut [u8],
    pub(super) meta: usize,
    pub(super) data: usize,
    pub(super) end: usize,
    pub(super) front: usize,
    pub(super) back: usize,
    pub(super) rest: Option<&'a dyn Rest>,
}

impl<'a> Packet<'a> {
    /// A packet that lies in `data..end` of `mem`. It may grow over all of `mem`.
    ///
    /// # Panics
    /// If that range is not in `mem`.
    pub fn new(mem: &'a mut [u8], data: usize, end: usize) -> Packet<'a> {
        assert!(data <= end && end <= mem.len(), "a packet lies in its memory");
        let back = mem.len();
        Packet { mem, meta: data, data, end, front: 0, back, rest: None }
    }
    /// It may grow no further forwards than to `front`, and no further back than to `back`.
    pub fn within(mut self, front: usize, back: usize) -> Packet<'a> {
        self.front = front.min(self.data);
        self.back = back.clamp(self.end, self.mem.len());
        self
    }
    /// More bytes of the packet follow elsewhere.
    pub fn followed_by(mut self, rest: &'a dyn Rest) -> Packet<'a> {
        self.rest = Some(rest);
        self
    }
    /// Where it begins in its memory.
    pub fn data(&self) -> usize {
        self.data
    }
    /// Where it ends in its memory.
    pub fn end(&self) -> usize {
        self.end
    }
    /// Where its metadata begin, which end where the packet begins.
    pub fn meta(&self) -> usize {
        self.meta
    }
    /// Its bytes, as far as they lie here.
    pub fn bytes(&self) -> &[u8] {
        self.mem.get(self.data..self.end).unwrap_or_default()
    }
    /// All its bytes.
    pub(super) fn len(&self) -> usize {
        self.end - self.data + self.rest.map_or(0, Rest::len)
    }

    /// `bpf_xdp_adjust_head`: moves the beginning, with the metadata before it.
    pub(super) fn adjust_head(&mut self, delta: i32) -> i64 {
        let meta_len = self.data - self.meta;
        let Some(data) = self.data.checked_add_signed(delta as isize) else { return EINVAL };
        // What is left has to hold an Ethernet header.
        if data < self.front + meta_len || data + ETH_HLEN > self.end {
            return EINVAL;
        }
        let meta = data - meta_len;
        self.mem.copy_within(self.meta..self.data, meta);
        (self.meta, self.data) = (meta, data);
        0
    }

    /// `bpf_xdp_adjust_meta`: moves the beginning of the metadata.
    pub(super) fn adjust_meta(&mut self, delta: i32) -> i64 {
        let meta = self.meta.checked_add_signed(delta as isize);
        let Some(meta) = meta.filter(|&m| m >= self.front && m <= self.data) else {
            return EINVAL;
        };
        let len = self.data - meta;
        if !len.is_multiple_of(4) || len > META_MAX {
            return EACCES;
        }
        self.meta = meta;
        0
    }

    /// `bpf_xdp_adjust_tail`: moves the end; what it grows by is zero.
    pub(super) fn adjust_tail(&mut self, delta: i32) -> i64 {
        if self.rest.is_some_and(|r| !r.is_empty()) {
            // The end lies elsewhere.
            return EOPNOTSUPP;
        }
        let end = self.end.checked_add_signed(delta as isize);
        let Some(end) = end.filter(|&e| e <= self.back && e >= self.data + ETH_HLEN) else {
            return EINVAL;
        };
        if let Some(grown) = self.mem.get_mut(self.end..end) {
            grown.fill(0);
        }
        self.end = end;
        0
    }

    /// Copies bytes from offset `off` of the whole packet; false if they are not all there.
    pub(super) fn load_bytes(&self, off: usize, out: &mut [u8]) -> bool {
        if off.checked_add(out.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        let here = self.bytes();
        let n = out.len().min(here.len().saturating_sub(off));
        let (first, second) = out.split_at_mut(n);
        if n > 0 {
            first.copy_from_slice(&here[off..off + n]);
        }
        if let Some(rest) = self.rest.filter(|_| !second.is_empty()) {
            rest.copy(off.saturating_sub(here.len()), second);
        }
        true
    }

    /// Copies bytes to offset `off`; false if they do not all lie here.
    pub(super) fn store_bytes(&mut self, off: usize, bytes: &[u8]) -> bool {
        let at = self.data + off;
        match self.mem.get_mut(..self.end).and_then(|m| m.get_mut(at..at + bytes.len())) {
            Some(to) => {
                to.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

const ETH_HLEN: usize = 14;
/// The kernel keeps the metadata's length in a byte, as a multiple of four.
const META_MAX: usize = 252;
const EINVAL: i64 = -(libc::EINVAL as i64);
const EACCES: i64 = -(libc::EACCES as i64);
const EOPNOTSUPP: i64 = -(libc::EOPNOTSUPP as i64);
