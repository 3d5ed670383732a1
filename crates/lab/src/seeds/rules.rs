//! What a run is held to on its way, and at its end.

use std::collections::BTreeSet;

use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::table::Counter;
use linerate_core::tcp::State;
use linerate_core::time::{Instant, SEC};

use super::run::{Fault, Run};
use super::shards::{check_empty, check_homes, count};

/// No moment of virtual time has so many events.
const SAME_MOMENT: u32 = 20_000;
/// No timer is overdue for so long; the wheel's are late by an eighth of two minutes at the most.
const OVERDUE: u64 = 30 * SEC;
/// Memory that a socket may hold beyond its buffers, in bytes: a super-packet on each side, and the chunk
/// that is being filled.
const SLACK: u64 = 400_000;

impl Run {
    /// What an end that is over says of the connection: both agree.
    pub(super) fn ended(&self, i: usize, side: usize) -> Result<(), Fault> {
        let (_, ends, _) = &self.talks[i];
        let (end, other) = (&ends[side], &ends[1 - side]);
        let Some(err) = end.failed else { return Ok(()) };
        let mortal = ends.iter().any(|end| end.plan.abort.is_some());
        if self.denied(err)
            || other.aborted
            || (mortal && other.failed.is_some())
            || (end.eof && end.shut)
        {
            return Ok(());
        }
        Err(self.fault(format!(
            "connection {i}, side {side} fails: {err}; {end:?}; the other: {other:?}; {}",
            self.unfinished()
        )))
    }

    /// Whether the other side may have denied a connection that it knew nothing of: a server that answers
    /// by cookies keeps nothing, and takes a segment that overtakes the first one for one of nobody. Or that
    /// a host has reset what nobody owned any more, for want of memory.
    fn denied(&self, err: TcpError) -> bool {
        matches!(err, TcpError::Reset | TcpError::Closed) && (self.by_cookies() || self.was_short())
    }
    pub(super) fn was_short(&self) -> bool {
        let short = |host| count(&self.world, host, Counter::TcpExtTCPAbortOnMemory);
        self.hosts.into_iter().map(short).sum::<u64>() > 0
    }
    pub(super) fn by_cookies(&self) -> bool {
        count(&self.world, self.hosts[1], Counter::TcpExtSyncookiesSent) > 0
    }

    /// What always holds.
    pub(super) fn check(&mut self) -> Result<(), Fault> {
        self.follow();
        self.steps += 1;
        let now = self.world.now();
        self.moment = if self.moment.0 == now { (now, self.moment.1 + 1) } else { (now, 0) };
        if self.moment.1 > SAME_MOMENT {
            return Err(self.fault("it spins: time does not go on"));
        }
        if let Some(what) = self.watch.borrow_mut().fault.take() {
            return Err(self.fault(what));
        }
        // What is late is looked at until it is not: between two looks it could be so twice.
        let late = !self.overdue.is_empty();
        if late || self.steps.is_multiple_of(16) || now.since(self.looked_at) > SEC {
            self.looked_at = now;
            self.check_timers(now)?;
        }
        if self.steps.is_multiple_of(64) {
            self.check_sums()?;
        }
        Ok(())
    }

    /// Nobody waits for what will not come: what is queued has a timer, and timers fire.
    fn check_timers(&mut self, now: Instant) -> Result<(), Fault> {
        for side in 0..2 {
            for cpu in 0..self.world.shards(self.hosts[side]) {
                self.check_timers_of(now, side, cpu)?;
            }
        }
        Ok(())
    }

    fn check_timers_of(&mut self, now: Instant, side: usize, cpu: usize) -> Result<(), Fault> {
        if self.world.is_busy(self.hosts[side], cpu) {
            self.overdue.retain(|key, _| (key.0, key.1) != (side, cpu));
            return Ok(());
        }
        let shard = self.world.look(self.hosts[side], cpu);
        if shard.tcp.is_dirty() {
            return Ok(());
        }
        let (mut late, mut due) = (None, BTreeSet::new());
        for row in shard.tcp_iter() {
            let key = (side, cpu, row.local.port(), row.remote.port());
            let sends = matches!(
                row.state,
                State::Established
                    | State::CloseWait
                    | State::FinWait1
                    | State::Closing
                    | State::LastAck
            );
            // Who is about to leave sends nothing new.
            let held = shard.rfs_pending();
            if sends && row.tx_queue > 0 && !matches!(row.timer, 1 | 4) && !held {
                late = Some((key, "has data to send and no timer"));
            }
            if row.timer != 0 && row.timer_ms == 0 {
                due.insert(key);
                if now.since(*self.overdue.entry(key).or_insert(now)) > OVERDUE {
                    late = Some((key, "has a timer that does not fire"));
                }
            }
        }
        self.overdue.retain(|key, _| (key.0, key.1) != (side, cpu) || due.contains(key));
        match late {
            Some((key, what)) => Err(self.fault(format!("{key:?} {what}: {}", self.unfinished()))),
            None => Ok(()),
        }
    }

    /// No packet is missing, memory has its bounds, and each connection is known to one shard.
    fn check_sums(&mut self) -> Result<(), Fault> {
        let missing = self.world.unaccounted();
        if !missing.is_empty() {
            return Err(self.fault(format!("packets are missing: {missing:?}")));
        }
        for side in 0..2 {
            for cpu in 0..self.world.shards(self.hosts[side]) {
                self.check_memory(side, cpu)?;
            }
            check_homes(&self.world, self.hosts[side])
                .map_err(|why| self.fault(format!("a connection of host {side} {why}")))?;
        }
        for (i, (_, ends, _)) in self.talks.iter().enumerate() {
            for (side, end) in ends.iter().enumerate().filter(|(_, end)| !end.closed) {
                let (Some(id), Some(cpu)) = (end.id, end.cpu) else { continue };
                if self.world.look(self.hosts[side], cpu).tcp_info(id).is_none() {
                    return Err(self.fault(format!("connection {i} side {side} is on no shard")));
                }
            }
        }
        Ok(())
    }

    fn check_memory(&self, side: usize, cpu: usize) -> Result<(), Fault> {
        let shard = self.world.look(self.hosts[side], cpu);
        // One that was reset and is not closed yet stands in no list, and has its buffers.
        let ends = self.talks.iter().map(|(_, ends, _)| &ends[side]);
        let ours = ends.filter(|end| end.cpu == Some(cpu)).filter_map(|end| end.id);
        let ids: BTreeSet<SocketId> =
            shard.tcp_iter().filter_map(|row| row.id).chain(ours).collect();
        let limits = ids.iter().filter_map(|id| shard.tcp_info(*id));
        let limits = limits.map(|info| u64::from(info.rcvbuf) + u64::from(info.sndbuf) + SLACK);
        let stat = shard.tcp_sockstat();
        let most = limits.sum::<u64>() + stat.orphan * (SLACK + (4 << 20));
        if stat.mem * 4096 > most {
            return Err(self.fault(format!(
                "host {side} shard {cpu} holds {} pages, at most {most} bytes",
                stat.mem
            )));
        }
        Ok(())
    }

    /// When all is over, nothing is left.
    pub(super) fn afterwards(&mut self, until: Instant) -> Result<(), Fault> {
        while self.world.now() < until && self.world.step_by(self.alarm().min(until)) {
            self.act()?;
            self.check()?;
        }
        self.check_sums()?;
        for side in 0..2 {
            for cpu in 0..self.world.shards(self.hosts[side]) {
                self.check_nothing_left(side, cpu)?;
            }
            check_empty(&self.world, self.hosts[side])
                .map_err(|why| self.fault(format!("host {side} when all is over: {why}")))?;
        }
        for port in &self.ports {
            let passed = self.world.passed(*port);
            if passed.under_way() != 0 {
                return Err(
                    self.fault(format!("{port:?} lost packets that it did not count: {passed:?}"))
                );
            }
        }
        Ok(())
    }

    fn check_nothing_left(&self, side: usize, cpu: usize) -> Result<(), Fault> {
        let shard = self.world.look(self.hosts[side], cpu);
        let rows: Vec<_> = shard.tcp_iter().filter(|row| row.state != State::Listen).collect();
        let stat = shard.tcp_sockstat();
        let pool = (shard.net.pool.small_out(), shard.net.pool.large_out());
        let left = (stat.mem, stat.orphan, stat.tw);
        if rows.is_empty() && left == (0, 0, 0) && pool == (0, 0) {
            return Ok(());
        }
        Err(self.fault(format!(
            "host {side} shard {cpu} holds when all is over: pages, orphans, TIME_WAIT {left:?}, packets {pool:?}, {rows:?}"
        )))
    }
}
