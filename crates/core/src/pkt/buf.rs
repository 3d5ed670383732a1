//! Packet memory itself: [`Buf`], a pool's own or a chunk that a device shares with the kernel.

use std::ops::{Deref, DerefMut};

/// Bytes in a small buffer: the head of every packet.
pub const SMALL: usize = 2048;
/// Bytes in a large buffer: the rest of a super-packet.
pub const LARGE: usize = 65536;
/// Room that is left before what is received or built, for headers.
pub const HEADROOM: usize = 160;

/// A piece of packet memory: unique, writable, movable between threads.
pub struct Buf(Bytes);

enum Bytes {
    Heap(Box<[u8]>),
    /// A chunk of memory that a device shares with the kernel (a UMEM), and whose.
    Mapped(&'static mut [u8], Home),
}

/// Which shared memory a chunk belongs to: a small number, given out by the device that mapped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Home(pub u16);

impl Buf {
    pub(super) fn new(len: usize) -> Buf {
        Buf(Bytes::Heap(vec![0; len].into_boxed_slice()))
    }
    /// No memory: the head of a packet whose chunk went home.
    pub(super) fn none() -> Buf {
        Buf(Bytes::Heap(Box::default()))
    }
    /// A chunk of memory that a device mapped. It stays mapped as long as the process lives, so
    /// that the chunk may outlive the device.
    pub fn mapped(chunk: &'static mut [u8], home: Home) -> Buf {
        Buf(Bytes::Mapped(chunk, home))
    }
    /// Where the chunk belongs; `None` for memory of the pool's own.
    #[inline]
    pub fn home(&self) -> Option<Home> {
        match self.0 {
            Bytes::Heap(_) => None,
            Bytes::Mapped(_, home) => Some(home),
        }
    }
    /// Whether it is a small buffer of the pool's own.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        matches!(&self.0, Bytes::Heap(bytes) if bytes.len() == SMALL)
    }
    /// The chunk itself, for the device that mapped it.
    ///
    /// # Errors
    /// The buffer, if it is the pool's own.
    pub fn into_mapped(self) -> Result<&'static mut [u8], Buf> {
        match self.0 {
            Bytes::Mapped(chunk, _) => Ok(chunk),
            heap => Err(Buf(heap)),
        }
    }
}
impl Deref for Buf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Heap(bytes) => bytes,
            Bytes::Mapped(bytes, _) => bytes,
        }
    }
}
impl DerefMut for Buf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Bytes::Heap(bytes) => bytes,
            Bytes::Mapped(bytes, _) => bytes,
        }
    }
}
