//! TCP sequence numbers: modulo 2^32, compared within half the space (RFC 9293 §3.4).

use std::ops::{Add, AddAssign, Sub};

/// A sequence number. `<` and `>` do not exist for it on purpose: [`Seq::lt`] and friends say how
/// a wrapped number compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Kernel `before()`.
    #[inline]
    pub fn lt(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }
    /// Not after.
    #[inline]
    pub fn le(self, other: Seq) -> bool {
        !other.lt(self)
    }
    /// Kernel `after()`.
    #[inline]
    pub fn gt(self, other: Seq) -> bool {
        other.lt(self)
    }
    /// Not before.
    #[inline]
    pub fn ge(self, other: Seq) -> bool {
        !self.lt(other)
    }
    /// The later of the two.
    #[inline]
    pub fn max(self, other: Seq) -> Seq {
        if self.lt(other) { other } else { self }
    }
    /// The earlier of the two.
    #[inline]
    pub fn min(self, other: Seq) -> Seq {
        if self.lt(other) { self } else { other }
    }
    /// Kernel `between()`: `low <= self <= high`.
    #[inline]
    pub fn within(self, low: Seq, high: Seq) -> bool {
        high.0.wrapping_sub(low.0) >= self.0.wrapping_sub(low.0)
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn add(self, n: u32) -> Seq {
        Seq(self.0.wrapping_add(n))
    }
}
impl AddAssign<u32> for Seq {
    #[inline]
    fn add_assign(&mut self, n: u32) {
        *self = *self + n;
    }
}
/// The distance from `other` to `self`, modulo 2^32.
impl Sub for Seq {
    type Output = u32;
    #[inline]
    fn sub(self, other: Seq) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}
impl Sub<u32> for Seq {
    type Output = Seq;
    #[inline]
    fn sub(self, n: u32) -> Seq {
        Seq(self.0.wrapping_sub(n))
    }
}

#[cfg(test)]
mod tests {
    use super::Seq;

    #[test]
    fn compares_across_the_wrap() {
        let a = Seq(0xffff_fff0);
        let b = a + 0x20;
        assert_eq!(b, Seq(0x10));
        assert!(a.lt(b) && b.gt(a) && a.le(a) && a.ge(a));
        assert_eq!(b - a, 0x20);
        assert!(Seq(0).within(a, b) && !Seq(0x11).within(a, b));
        assert_eq!(a.max(b), b);
    }
}
