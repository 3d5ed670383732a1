//! The transmit ring: frames of one size in turn. We fill some, one system call has the kernel take
//! them, and what it did not take is ours again at once.
//!
//! The kernel walks the ring from a place of its own that nobody can set, so ours must never part
//! from it: it moves only past frames that the kernel took. A frame that it refuses is withdrawn
//! together with those behind it, and the next one is put in its place.

use crate::sys::packet_ring::Rings;

/// The frames of a ring, as far as the algorithm needs them.
pub(super) trait Frames {
    /// How many there are.
    fn count(&self) -> u32;
    /// What the status of one says.
    fn status(&self, frame: u32) -> u32;
    /// Makes a requested or refused one free.
    fn withdraw(&mut self, frame: u32);
}

impl Frames for Rings {
    fn count(&self) -> u32 {
        self.tx().frames()
    }
    fn status(&self, frame: u32) -> u32 {
        self.frame_status(frame)
    }
    fn withdraw(&mut self, frame: u32) {
        Rings::withdraw(self, frame);
    }
}

/// Our place in a transmit ring, which is the kernel's between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head(u32);

/// What the kernel did with the frames it was asked to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many of them, from the first on, are on their way.
    pub(super) frames: u32,
    /// The one behind those is wrong, and was refused for good.
    pub(super) wrong: bool,
}

impl Head {
    /// The frame `n` places behind ours.
    pub(super) fn at(self, n: u32, ring: &impl Frames) -> u32 {
        let count = u64::from(ring.count());
        (u64::from(self.0) + u64::from(n)).checked_rem(count).map_or(0, |at| at as u32)
    }

    /// After a call with `asked` frames requested: moves past those that were taken and withdraws
    /// the others.
    pub(super) fn settle(&mut self, ring: &mut impl Frames, asked: u32) -> Taken {
        let mut taken = Taken { frames: 0, wrong: false };
        while taken.frames < asked {
            match ring.status(self.at(taken.frames, ring)) {
                libc::TP_STATUS_WRONG_FORMAT => {
                    taken.wrong = true;
                    break;
                }
                libc::TP_STATUS_SEND_REQUEST => break,
                _ => taken.frames += 1,
            }
        }
        for n in taken.frames..asked {
            ring.withdraw(self.at(n, ring));
        }
        self.0 = self.at(taken.frames, ring);
        taken
    }

    /// Frames that are on their way still.
    pub(super) fn in_flight(self, ring: &impl Frames) -> usize {
        let busy = |&f: &u32| ring.status(f) != libc::TP_STATUS_AVAILABLE;
        (0..ring.count()).filter(busy).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_SENDING};

    /// A ring and a kernel with a place of its own, which takes what it is told to.
    struct Model {
        frames: Vec<u32>,
        kernel: usize,
    }

    impl Frames for Model {
        fn count(&self) -> u32 {
            self.frames.len() as u32
        }
        fn status(&self, frame: u32) -> u32 {
            self.frames[frame as usize]
        }
        fn withdraw(&mut self, frame: u32) {
            let at = frame as usize;
            assert_ne!(self.frames[at], TP_STATUS_SENDING, "what is on its way stays");
            self.frames[at] = TP_STATUS_AVAILABLE;
        }
    }

    impl Model {
        /// `tpacket_snd`: at most `room` frames; one whose turn is in `wrong` stops it.
        fn send(&mut self, room: usize, wrong: Option<usize>) {
            for n in 0..room {
                if self.frames[self.kernel] != TP_STATUS_SEND_REQUEST {
                    return;
                }
                if wrong == Some(n) {
                    self.frames[self.kernel] = libc::TP_STATUS_WRONG_FORMAT;
                    return;
                }
                self.frames[self.kernel] = TP_STATUS_SENDING;
                self.kernel = (self.kernel + 1) % self.frames.len();
            }
        }
    }

    #[test]
    fn we_and_the_kernel_stay_at_the_same_place_over_many_rounds() {
        let mut ring = Model { frames: vec![TP_STATUS_AVAILABLE; 7], kernel: 0 };
        let mut head = Head::default();
        let mut state = 12345u32;
        let (mut sent, mut refused, mut wraps) = (0u32, 0u32, 0);
        for round in 0..10_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let want = state >> 8 & 7;
            let mut asked = 0;
            while asked < want && ring.status(head.at(asked, &ring)) == TP_STATUS_AVAILABLE {
                let at = head.at(asked, &ring) as usize;
                ring.frames[at] = TP_STATUS_SEND_REQUEST;
                asked += 1;
            }
            let wrong = (state >> 16 & 7 == 0).then_some((state >> 20 & 3) as usize);
            ring.send((state >> 12 & 7) as usize, wrong);
            let before = head.0;
            let taken = head.settle(&mut ring, asked);
            sent += taken.frames;
            refused += u32::from(taken.wrong);
            wraps += u32::from(head.0 < before);
            assert_eq!(head.0 as usize, ring.kernel, "round {round}");
            assert!(ring.frames.iter().all(|&s| s != TP_STATUS_SEND_REQUEST), "round {round}");
            // Completions come late, and in any order.
            let flying = ring.frames.iter().filter(|&&s| s == TP_STATUS_SENDING).count();
            assert_eq!(head.in_flight(&ring), flying);
            for (i, status) in ring.frames.iter_mut().enumerate() {
                if *status == TP_STATUS_SENDING && state >> (i + 3) & 1 == 1 {
                    *status = TP_STATUS_AVAILABLE;
                }
            }
        }
        assert!(sent > 1000 && refused > 100 && wraps > 100, "{sent} {refused} {wraps}");
    }

    #[test]
    fn a_place_near_the_end_of_numbers_wraps_as_any_other() {
        struct Huge;
        impl Frames for Huge {
            fn count(&self) -> u32 {
                u32::MAX
            }
            fn status(&self, _: u32) -> u32 {
                TP_STATUS_AVAILABLE
            }
            fn withdraw(&mut self, _: u32) {}
        }
        let mut head = Head(u32::MAX - 2);
        assert_eq!((head.at(1, &Huge), head.at(2, &Huge), head.at(9, &Huge)), (u32::MAX - 1, 0, 7));
        assert_eq!(head.settle(&mut Huge, 5), Taken { frames: 5, wrong: false });
        assert_eq!(head, Head(3));
    }
}
