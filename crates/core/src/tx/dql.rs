//! Byte queue limits: how many bytes a ring may hold so that the device is never idle and no more waits in
//! it than that, since what waits in a ring has left its queueing discipline.
//!
//! Linux: lib/dynamic_queue_limits.c `dql_completed`, include/linux/dynamic_queue_limits.h,
//!        include/linux/netdevice.h `netdev_tx_sent_queue`, `netdev_tx_completed_queue`

use crate::table::Knobs;
use crate::time::{Instant, MS};

/// The largest limit (`DQL_MAX_LIMIT`).
pub const MAX_LIMIT: u64 = 1_879_048_192;

/// The bounds that the user sets (`byte_queue_limits/limit_min`, `limit_max`, `hold_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The smallest limit, in bytes.
    pub limit_min: u64,
    /// The largest one.
    pub limit_max: u64,
    /// Nanoseconds that slack is measured for before the limit becomes smaller.
    pub hold_time: u64,
}

impl Bounds {
    /// As the knobs have them; a largest limit below the smallest one is what counts.
    #[inline]
    pub fn of(knobs: &Knobs) -> Bounds {
        Bounds {
            limit_min: knobs.bql_limit_min.min(knobs.bql_limit_max),
            limit_max: knobs.bql_limit_max,
            hold_time: knobs.bql_hold_time * MS,
        }
    }
}

/// The limit of one ring (`struct dql`).
#[derive(Clone, Debug, Default)]
pub struct Dql {
    limit: u64,
    /// Bytes ever put into the ring, and bytes that the device is through with.
    queued: u64,
    completed: u64,
    /// Bytes of the last packet put in.
    last_obj: u64,
    /// What was so when bytes were last completed: above the limit by so much, put in, the last packet.
    prev_ovlimit: u64,
    prev_queued: u64,
    prev_last_obj: u64,
    /// The least slack since it began to be measured.
    lowest_slack: Option<u64>,
    slack_start: Instant,
}

impl Dql {
    /// The limit now, in bytes.
    pub fn limit(&self, bounds: Bounds) -> u64 {
        self.limit.clamp(bounds.limit_min, bounds.limit_max)
    }
    /// Bytes that the ring and the device have.
    pub fn inflight(&self) -> u64 {
        self.queued - self.completed
    }
    /// Bytes that may be put in before the one that is over the limit; `None`: it is over it
    /// (`dql_avail`).
    #[inline]
    pub fn avail(&self, bounds: Bounds) -> Option<u64> {
        self.limit(bounds).checked_sub(self.inflight())
    }
    /// Packets of `bytes` bytes were put in, the last of which has `last` (`dql_queued`).
    #[inline]
    pub fn sent(&mut self, bytes: u64, last: u64) {
        self.queued += bytes;
        self.last_obj = last;
    }

    /// The device is through with `bytes` more (`dql_completed`). What was put into the ring past this
    /// is not counted.
    pub fn done(&mut self, bytes: u64, now: Instant, bounds: Bounds) {
        let count = bytes.min(self.inflight());
        if count == 0 {
            return;
        }
        let before = self.completed;
        let completed = before + count;
        self.limit = self.limit.clamp(bounds.limit_min, bounds.limit_max);
        let mut limit = self.limit;
        let ovlimit = (self.queued - before).saturating_sub(limit);
        let in_progress = self.queued > completed;
        let prev_in_progress = self.prev_queued > before;
        let all_prev_completed = completed >= self.prev_queued;
        if ovlimit > 0 && !in_progress || self.prev_ovlimit > 0 && all_prev_completed {
            // The ring ran empty while there was more to send: it may hold more, by what was sent and
            // completed in this interval.
            limit += completed.saturating_sub(self.prev_queued) + self.prev_ovlimit;
            self.slack_start = now;
            self.lowest_slack = None;
        } else if in_progress && prev_in_progress && !all_prev_completed {
            // The ring was busy all the time: what it held beyond twice of what was completed, nobody
            // needed.
            let slack = (limit + self.prev_ovlimit).saturating_sub(2 * count);
            let of_last = match self.prev_ovlimit {
                0 => 0,
                over => self.prev_last_obj.saturating_sub(over),
            };
            let slack = slack.max(of_last);
            let lowest = self.lowest_slack.map_or(slack, |lowest| lowest.min(slack));
            self.lowest_slack = Some(lowest);
            if now.since(self.slack_start) > bounds.hold_time {
                limit = limit.saturating_sub(lowest);
                self.slack_start = now;
                self.lowest_slack = None;
            }
        }
        let limit = limit.clamp(bounds.limit_min, bounds.limit_max);
        self.prev_ovlimit = if limit == self.limit { ovlimit } else { 0 };
        self.limit = limit;
        self.prev_last_obj = self.last_obj;
        self.completed = completed;
        self.prev_queued = self.queued;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SEC;

    const ALL: Bounds = Bounds { limit_min: 0, limit_max: MAX_LIMIT, hold_time: SEC };

    /// A ring that is filled as far as it may, from which the device has taken all when it says so: it
    /// is starved each time, and may hold more and more, until it is not filled any more.
    #[test]
    fn a_starved_ring_may_hold_more() {
        let mut dql = Dql::default();
        let mut limits = Vec::new();
        for turn in 0..6u64 {
            let mut n = 0;
            while dql.avail(ALL).is_some() {
                dql.sent(1000, 1000);
                n += 1;
            }
            dql.done(n * 1000, Instant::from_ns(turn * MS), ALL);
            limits.push(dql.limit(ALL));
        }
        // One packet is over a limit of 0; n packets of 1000 are over one of less.
        assert_eq!(limits, [1000, 3000, 7000, 15000, 31000, 63000]);
    }

    /// A ring that is kept busy gives up what it did not need, once that is sure for the hold time.
    #[test]
    fn a_busy_ring_gives_up_its_slack() {
        let mut dql = Dql { limit: 50_000, ..Dql::default() };
        let mut now = Instant::ZERO;
        for _ in 0..3000 {
            while dql.avail(ALL).is_some() {
                dql.sent(1000, 1000);
                assert!(dql.inflight() <= dql.limit(ALL) + 1000);
            }
            now = now.plus(MS);
            // The device does three packets a millisecond, and says so then.
            dql.done(3000, now, ALL);
        }
        assert!((3000..=9000).contains(&dql.limit(ALL)), "{}", dql.limit(ALL));
    }

    #[test]
    fn the_bounds_hold_whatever_happens() {
        let bounds = Bounds { limit_min: 3000, limit_max: 5000, hold_time: 0 };
        let mut dql = Dql::default();
        let mut rng = crate::rand::Rng::new(3);
        let mut now = Instant::ZERO;
        for _ in 0..20_000 {
            while rng.below(4) > 0 && dql.avail(bounds).is_some() {
                let len = rng.below(1500);
                dql.sent(len, len);
            }
            assert!(dql.inflight() <= 5000 + 1500);
            now = now.plus(rng.below(MS));
            dql.done(rng.below(5000), now, bounds);
            assert!((3000..=5000).contains(&dql.limit(bounds)));
        }
        // What was never put in is not completed.
        dql.done(u64::MAX, now, bounds);
        assert_eq!(dql.inflight(), 0);
    }
}
