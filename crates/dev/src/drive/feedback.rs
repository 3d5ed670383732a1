//! Feedback from the readers to the rings: what nobody will read is best lost before it costs.
//!
//! A budget alone keeps the application running at any overload, but most of what the pass brings
//! up is then dropped at full socket queues, and the time that went into it is lost for the
//! application. So while the application can not keep up, a pass takes as many packets as found
//! room above in the last one; the rest stays in the ring, where losing it is free. (Mogul and
//! Ramakrishnan, "Eliminating receive livelock in an interrupt-driven kernel", 1997, §6.)

/// A pass may always take so many packets: what is for other sockets gets through.
const QUOTA_MIN: usize = 16;
/// Turns in which the budget stays whole after a smaller one has cost packets that were wanted.
const HOLD_TURNS: u32 = 64;

/// What became of the packets of one pass.
#[derive(Clone, Copy, Default)]
struct Fate {
    took: usize,
    /// Dropped at full socket queues.
    lost: usize,
}

impl Fate {
    fn useful(self) -> usize {
        self.took.saturating_sub(self.lost)
    }
    /// Whether the same share was lost, give or take a quarter.
    fn as_before(self, before: Fate) -> bool {
        let (now, then) = (self.lost * before.took, before.lost * self.took);
        now.abs_diff(then) <= then / 4
    }
}

/// What a pass may take, by what became of the packets of the passes before.
pub(super) struct Feedback {
    pub on: bool,
    quota: usize,
    took: usize,
    /// Packets that socket queues had dropped when it was looked last.
    dropped: u64,
    /// What became of the pass after which the quota was lowered.
    before: Fate,
    hold: u32,
}

impl Feedback {
    pub(super) fn new() -> Feedback {
        Feedback {
            on: true,
            quota: usize::MAX,
            took: 0,
            dropped: 0,
            before: Fate::default(),
            hold: 0,
        }
    }

    /// Packets that the next pass may take of `budget`.
    #[inline]
    pub(super) fn budget(&self, budget: usize) -> usize {
        if self.on { budget.min(self.quota) } else { budget }
    }

    /// The pass took so many.
    #[inline]
    pub(super) fn took(&mut self, pkts: usize) {
        self.took = pkts;
    }

    /// The application had its turn, and has more to do (`busy`); socket queues have dropped
    /// `dropped` packets since the start.
    #[inline]
    pub(super) fn learn(&mut self, busy: bool, dropped: u64, budget: usize) {
        let lost = (dropped - self.dropped) as usize;
        self.dropped = dropped;
        if lost == 0 || !busy {
            if self.quota < budget {
                let more = if busy { self.quota / 8 + 1 } else { self.quota };
                self.quota = self.quota.saturating_add(more);
            }
            return;
        }
        self.lower(Fate { took: self.took, lost }, budget);
    }

    #[cold]
    fn lower(&mut self, fate: Fate, budget: usize) {
        if self.hold > 0 {
            self.hold -= 1;
            return;
        }
        // Readers that can not keep up take as many as before, however many are offered. Where the
        // wanted packets became fewer with the quota, and the unwanted as well, they are mixed with
        // others whose queue is full for good: taking fewer of all helps nobody.
        let fewer = fate.useful() * 4 < self.before.useful() * 3;
        if self.quota < budget && fewer && fate.as_before(self.before) {
            (self.quota, self.before, self.hold) = (usize::MAX, Fate::default(), HOLD_TURNS);
            return;
        }
        (self.quota, self.before) = (fate.useful().max(QUOTA_MIN), fate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 300;

    #[test]
    fn the_quota_settles_at_what_the_readers_take() {
        let mut feedback = Feedback::new();
        let (mut dropped, mut offered) = (0, 0);
        for turn in 0..200 {
            let took = feedback.budget(BUDGET);
            feedback.took(took);
            dropped += took.saturating_sub(64) as u64;
            feedback.learn(true, dropped, BUDGET);
            if turn >= 100 {
                offered += took;
            }
        }
        assert!((6400..7400).contains(&offered), "{offered} for 6400");
        // The load is over: the whole budget is there again soon.
        (0..6).for_each(|_| feedback.learn(false, dropped, BUDGET));
        assert_eq!(feedback.budget(BUDGET), BUDGET);
    }

    #[test]
    fn a_socket_that_nobody_reads_does_not_slow_the_others() {
        let mut feedback = Feedback::new();
        let (mut dropped, mut offered) = (0, 0);
        for _ in 0..650 {
            let took = feedback.budget(BUDGET);
            feedback.took(took);
            // Two of three are for it.
            dropped += took as u64 * 2 / 3;
            feedback.learn(true, dropped, BUDGET);
            offered += took;
        }
        assert!(offered > 650 * BUDGET * 9 / 10, "{offered}");
    }

    #[test]
    fn while_the_application_keeps_up_nothing_is_held_back() {
        let mut feedback = Feedback::new();
        for turn in 1..100 {
            feedback.took(BUDGET);
            feedback.learn(false, turn * 100, BUDGET);
            assert_eq!(feedback.budget(BUDGET), BUDGET);
        }
    }
}
