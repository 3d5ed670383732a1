//! Runs a script against a target.
//!
//! Events happen in the script's order. While an expected packet is awaited, or a time, a call that
//! blocks is tried again whenever something happened. What the stack sent and nobody expected ends
//! the run, at the latest at the end of the script.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::script::{
    Action, Assert, Body, Event, Opt, Packet, Script, Segment, Syscall, When, Who,
};
use super::syscall::{self, Asked};
use super::target::{Call, Fd, Sent, Target};
use super::wire::{Flows, Raw, dissect};

/// How a run is judged.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whose stack it is.
    pub who: Who,
    /// How far from its time an event may be if the script does not say, in microseconds.
    pub tolerance_us: i64,
    /// Beside that, thousandths of the time since the event before.
    pub tolerance_permille: i64,
    /// Record what happens instead of judging it.
    pub learn: bool,
    /// Windows are written into what is learnt.
    pub learn_windows: bool,
}

impl Rules {
    /// For virtual time: what happens at once happens in the same microsecond. A timer may be as
    /// late as the wheel's granularity, which is Linux's: an eighth of its length.
    pub const EXACT: Rules = Rules {
        who: Who::Linerate,
        tolerance_us: 2_200,
        tolerance_permille: 125,
        learn: false,
        learn_windows: false,
    };
    /// For the running kernel on a machine that others use, too: order and content matter, time
    /// roughly.
    pub const KERNEL: Rules = Rules {
        who: Who::Linux,
        tolerance_us: 50_000,
        tolerance_permille: 200,
        learn: false,
        learn_windows: false,
    };
}

/// What of a run was not as the script says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What happened, or its order.
    Content,
    /// Only when it happened, or the runner itself was late before: another try may succeed.
    Time,
}

/// Why a script failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The script.
    pub file: String,
    /// The line.
    pub line: usize,
    /// What was not as it says.
    pub kind: Kind,
    /// Expected and found, in the script's words.
    pub what: String,
    /// What had happened until then.
    pub transcript: Vec<Happened>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}: {}", self.file, self.line, self.what)?;
        writeln!(f, "  what happened until then:")?;
        let from = self.transcript.len().saturating_sub(14);
        for happened in &self.transcript[from..] {
            writeln!(f, "    {:>10.6} {}", happened.at_us as f64 / 1e6, happened.text)?;
        }
        Ok(())
    }
}

/// One line of what happened, in the script's words.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When, in microseconds.
    pub at_us: i64,
    /// What.
    pub text: String,
    /// The script's own event, by its place; `None` = the stack's packet.
    pub event: Option<usize>,
}

struct Pending {
    event: usize,
    asked: Asked,
    end_us: i64,
    /// Bytes that a write has placed already.
    done: usize,
}

struct Run<'a> {
    script: &'a Script,
    rules: Rules,
    target: &'a mut dyn Target,
    flows: Flows,
    fds: BTreeMap<i64, Opened>,
    /// The connection that TCP_INFO is asked of.
    info: Option<Fd>,
    sent: VecDeque<Sent>,
    pending: Option<Pending>,
    /// When the event before happened, by the script.
    last_us: i64,
    /// How late the last expected packet was: what follows from it may be as late.
    slip_us: i64,
    /// The runner was later than this at least once.
    late_us: i64,
    log: Vec<Happened>,
}

/// A descriptor of the script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub fd: Fd,
    pub nonblock: bool,
}

/// Runs a script. Gives what happened.
///
/// # Errors
/// [`Failure`]: the first thing that was not as the script says.
pub fn run(
    script: &Script,
    target: &mut dyn Target,
    rules: Rules,
) -> Result<Vec<Happened>, Box<Failure>> {
    let mut run = Run {
        script,
        rules,
        target,
        flows: Flows::new(script.v6),
        fds: BTreeMap::new(),
        info: None,
        sent: VecDeque::new(),
        pending: None,
        last_us: 0,
        slip_us: 0,
        late_us: 0,
        log: Vec::new(),
    };
    match run.all() {
        Ok(()) => Ok(run.log),
        Err((line, kind, what)) => {
            let kind = if run.late() { Kind::Time } else { kind };
            let (file, transcript) = (script.file.clone(), run.log);
            Err(Box::new(Failure { file, line, kind, what, transcript }))
        }
    }
}

type Fault = (usize, Kind, String);

impl Run<'_> {
    fn tolerance(&self, since_us: i64) -> i64 {
        if self.target.is_virtual() && since_us == 0 {
            return 0;
        }
        let base = match (self.target.is_virtual(), self.script.tolerance_us) {
            (false, Some(us)) => us,
            _ => self.rules.tolerance_us,
        };
        base + since_us.max(0) * self.rules.tolerance_permille / 1000
    }
    fn late(&self) -> bool {
        !self.target.is_virtual() && self.late_us > 15_000
    }

    fn all(&mut self) -> Result<(), Fault> {
        for knob in &self.script.knobs {
            self.target.set_knob(knob).map_err(|why| (1, Kind::Content, why))?;
        }
        for (i, event) in self.script.events.iter().enumerate() {
            if event.only.is_some_and(|who| who != self.rules.who) {
                continue;
            }
            self.event(i, event)?;
        }
        let last = self.script.events.last().map_or(1, |e| e.line);
        if let Some(end_us) = self.pending.as_ref().map(|p| p.end_us) {
            // A call that blocks may outlast everything else.
            let patience = if self.rules.learn { 30_000_000 } else { 1_000_000 };
            let until = end_us + self.tolerance(end_us) + patience;
            while self.pending.is_some() && self.target.now_us() < until {
                let unread = !self.rules.learn && !self.sent.is_empty();
                self.step(if unread { until.min(end_us) } else { until });
                self.gather();
                if self.rules.learn {
                    self.drain()?;
                }
                self.retry_pending()?;
            }
        }
        if let Some(pending) = self.pending.take() {
            let call = &self.script.events[pending.event];
            return Err((call.line, Kind::Content, format!("{} never returns", call.text)));
        }
        self.gather();
        while let Some(sent) = self.sent.pop_front() {
            let Some(raw) = self.read(&sent, last)? else { continue };
            let mut got = self.flows.relative(&raw, None);
            got.ecn = got.ecn.filter(|e| e.bits() != 0);
            self.note_packet(&sent, &got);
            if !self.rules.learn {
                return Err((last, Kind::Content, format!("expected nothing more, got > {got}")));
            }
        }
        Ok(())
    }

    /// The time of an event and how long it may wait, by the script.
    fn due(&mut self, when: When) -> (i64, i64) {
        match when {
            When::At(us) => (us, us),
            When::After(us) => (self.last_us + us, self.last_us + us),
            When::Between(from, to) => (from, to),
            When::AfterBetween(from, to) => (self.last_us + from, self.last_us + to),
            When::Any => (self.target.now_us(), i64::MAX / 4),
        }
    }

    fn event(&mut self, i: usize, event: &Event) -> Result<(), Fault> {
        let (from, to) = self.due(event.when);
        if let Action::Expect(want) = &event.action {
            if self.rules.learn {
                self.move_to(from)?;
            } else {
                let at = self.expect(i, event, want, (from, to))?;
                self.last_us = if from == to { from } else { at };
                return Ok(());
            }
        }
        self.move_to(from)?;
        let now = self.target.now_us();
        self.late_us = self.late_us.max(now - from);
        self.last_us = if event.when == When::Any { now } else { from };
        self.log.push(Happened { at_us: self.last_us, text: event.text.clone(), event: Some(i) });
        match &event.action {
            Action::Expect(_) => {
                self.log.pop();
            }
            Action::Inject(packet) => {
                self.gather();
                let bytes = self.flows_now(packet)?;
                self.target.inject(&bytes);
            }
            Action::Knobs(knobs) => {
                for knob in knobs {
                    self.target.set_knob(knob).map_err(|w| (event.line, Kind::Content, w))?;
                }
            }
            Action::Assert(asserts) => self.assert(event.line, asserts)?,
            Action::Call(call) => self.call(i, event.line, call)?,
        }
        self.retry_pending()
    }
    /// What was sent already must be read before the numbers of a packet can be told: it may carry
    /// the first sequence number of the connection. Only when learning; a script expects it.
    fn flows_now(&mut self, packet: &Packet) -> Result<Vec<u8>, Fault> {
        if self.rules.learn {
            self.drain()?;
        }
        Ok(self.flows.emit(packet))
    }

    fn gather(&mut self) {
        while let Some(sent) = self.target.sent() {
            self.sent.push_back(sent);
        }
    }
    /// Learning: everything that was sent is noted.
    fn drain(&mut self) -> Result<(), Fault> {
        self.gather();
        while let Some(sent) = self.sent.pop_front() {
            if let Some(raw) = self.read(&sent, 0)? {
                let got = self.flows.relative(&raw, None);
                self.note_packet(&sent, &got);
            }
        }
        Ok(())
    }
    fn read(&self, sent: &Sent, line: usize) -> Result<Option<Raw>, Fault> {
        dissect(&sent.bytes).map_err(|what| (line, Kind::Content, format!("the stack sent {what}")))
    }
    fn note_packet(&mut self, sent: &Sent, got: &Packet) {
        let mut shown = got.clone();
        if let Body::Tcp(segment) = &mut shown.body
            && segment.flags & 0x06 != 0x02
            && !(self.rules.learn && self.rules.learn_windows)
        {
            segment.win = None;
        }
        shown.ecn = shown.ecn.filter(|e| e.bits() != 0);
        self.log.push(Happened { at_us: sent.at_us, text: format!("> {shown}"), event: None });
    }

    fn move_to(&mut self, us: i64) -> Result<(), Fault> {
        loop {
            self.gather();
            if self.rules.learn {
                self.drain()?;
            }
            self.retry_pending()?;
            if self.target.now_us() >= us {
                return Ok(());
            }
            self.step(us);
        }
    }
    /// Moves on. A real clock's steps are short: a long one means that the runner was kept from
    /// running.
    fn step(&mut self, until_us: i64) {
        let before = self.target.now_us();
        self.target.step(until_us);
        self.late_us = self.late_us.max(self.target.now_us() - before - 1_000);
    }

    fn expect(
        &mut self,
        i: usize,
        event: &Event,
        want: &Packet,
        (from, to): (i64, i64),
    ) -> Result<i64, Fault> {
        let mut tolerance = self.tolerance(to - self.last_us);
        if to > self.last_us {
            tolerance += self.slip_us;
        }
        // A real clock is waited upon for longer, to tell late from never.
        let patience = if self.target.is_virtual() { 0 } else { 2 * tolerance + 300_000 };
        let deadline = to.saturating_add(tolerance).saturating_add(patience);
        let sent = loop {
            self.gather();
            self.retry_pending()?;
            if let Some(sent) = self.sent.pop_front() {
                if self.read(&sent, event.line)?.is_none() {
                    continue;
                }
                break sent;
            }
            if self.target.now_us() >= deadline {
                let what = format!("expected > {want}, got nothing");
                return Err((event.line, Kind::Content, what));
            }
            self.step(deadline);
        };
        let Some(raw) = self.read(&sent, event.line)? else { return Ok(sent.at_us) };
        let Body::Tcp(wanted) = &want.body else {
            return Err((event.line, Kind::Content, "only TCP can be expected".to_owned()));
        };
        let got = self.flows.relative(&raw, Some(wanted));
        self.note_packet(&sent, &got);
        if let Some(last) = self.log.last_mut() {
            last.event = Some(i);
        }
        let slack = tolerance / 1000;
        if let Some(field) = differs(want, wanted, &got, slack) {
            let what = format!("{field}:\n  expected > {want}\n  got      > {got}");
            return Err((event.line, Kind::Content, what));
        }
        let at = sent.at_us;
        if event.when != When::Any && (at < from - tolerance || at > to + tolerance) {
            let what = format!(
                "expected > {want}\n  at {}, came at {} (tolerance {})",
                seconds(from),
                seconds(at),
                seconds(tolerance)
            );
            return Err((event.line, Kind::Time, what));
        }
        self.slip_us = (at - to).max(0);
        Ok(at)
    }

    fn assert(&mut self, line: usize, asserts: &[Assert]) -> Result<(), Fault> {
        let fail = |what: String| Err((line, Kind::Content, what));
        let mut said = Vec::new();
        for assert in asserts {
            let have = match (assert.field.starts_with("tcpi_"), self.info) {
                (false, _) => self.target.counter(&assert.field),
                (true, Some(fd)) => self.target.tcp_info(fd, &assert.field),
                (true, None) => return fail("no connection to ask TCP_INFO of".to_owned()),
            };
            let Some(have) = have else {
                return fail(format!("expected a field that is known, found {}", assert.field));
            };
            if !self.rules.learn && !assert.holds(have) {
                let want = assert.value.unwrap_or_default();
                return fail(format!(
                    "expected {} {} {want}, it is {have}",
                    assert.field, assert.op
                ));
            }
            said.push(format!("{} == {have}", assert.field));
        }
        if let Some(last) = self.log.last_mut().filter(|_| self.rules.learn) {
            last.text = format!("%{{ assert {} }}%", said.join(" and "));
        }
        Ok(())
    }

    fn call(&mut self, i: usize, line: usize, call: &Syscall) -> Result<(), Fault> {
        let asked = syscall::resolve(call, &mut self.fds);
        let asked = asked.map_err(|what| (line, Kind::Content, what))?;
        if let Some(Call::Connect(_, port)) = asked.call {
            self.flows.connects(port);
        }
        let end_us = match call.end {
            Some(When::After(us)) => self.last_us + us,
            Some(When::At(us)) => us,
            _ => self.last_us,
        };
        self.pending = Some(Pending { event: i, asked, end_us, done: 0 });
        self.retry_pending()?;
        match (&self.pending, call.end) {
            (Some(_), None) if !self.rules.learn => {
                let what = format!("{} blocks, and the script does not say until when", call.name);
                Err((line, Kind::Content, what))
            }
            _ => Ok(()),
        }
    }

    /// Tries the call that waits once more.
    fn retry_pending(&mut self) -> Result<(), Fault> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let event = &self.script.events[pending.event];
        let Action::Call(call) = &event.action else { return Ok(()) };
        let Some(outcome) = syscall::attempt(&mut pending.asked, &mut pending.done, self.target)
        else {
            self.pending = Some(pending);
            return Ok(());
        };
        self.gather();
        let now = self.target.now_us();
        let tolerance = self.tolerance(pending.end_us - self.last_us);
        let found = syscall::conclude((call, &event.text), &pending.asked, &outcome, &mut self.fds);
        if let Some(fd) = found.connection {
            self.info = Some(fd);
        }
        if self.rules.learn {
            let blocked = now > pending.end_us + 2_000;
            let begun = self.log.iter_mut().find(|h| h.event == Some(pending.event));
            if let Some(begun) = begun {
                begun.text = found.text;
                if blocked {
                    let waited = now - begun.at_us;
                    begun.text = format!("...{} {}", delta(waited, self.rules), begun.text);
                }
            }
            return Ok(());
        }
        if let Some(fault) = found.fault {
            return Err((event.line, Kind::Content, fault));
        }
        if call.end.is_some() && (now - pending.end_us).abs() > tolerance.max(1) {
            let what = format!(
                "expected {} to return at {}, it returned at {} (tolerance {})",
                call.name,
                seconds(pending.end_us),
                seconds(now),
                seconds(tolerance)
            );
            return Err((event.line, Kind::Time, what));
        }
        Ok(())
    }
}

fn seconds(us: i64) -> String {
    format!("{:.6}", us as f64 / 1e6)
}

/// A relative time as a script writes it; a real clock's is rounded to milliseconds.
pub(super) fn delta(us: i64, rules: Rules) -> String {
    let us = match rules.who {
        Who::Linux if us.abs() < 6_000 => 0,
        _ => rounded(us.max(0)),
    };
    let text = format!("{:.6}", us.max(0) as f64 / 1e6);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("+{}", text.strip_prefix("0.").map_or(text.to_owned(), |t| format!(".{t}")))
}

/// The roundest time of which a timer's granularity can have made `us`.
fn rounded(us: i64) -> i64 {
    let least = (us - 2_100) * 8 / 9;
    let steps = [1_000_000, 500_000, 100_000, 50_000, 20_000, 10_000, 5_000, 1_000];
    let round = steps.iter().map(|s| us / s * s).find(|r| *r >= least && *r > 0);
    round.filter(|_| us > 2_100).unwrap_or(us)
}

/// The first field in which a packet is not as wanted.
fn differs(want: &Packet, w: &Segment, got: &Packet, ts_slack_ms: i64) -> Option<&'static str> {
    let Body::Tcp(g) = &got.body else { return Some("another protocol") };
    if want.ecn.is_some() && want.ecn != got.ecn {
        return Some("the ECN bits differ");
    }
    let differ = [
        (w.ports != g.ports, "the ports differ"),
        (w.flags != g.flags, "the control bits differ"),
        (w.seq != g.seq, "the sequence numbers differ"),
        (w.len != g.len, "the lengths differ"),
        (w.ack != g.ack && w.flags & 0x10 != 0, "the acknowledgements differ"),
        (w.win.is_some() && w.win != g.win, "the windows differ"),
        (w.urg != g.urg, "the urgent pointers differ"),
    ];
    if let Some((_, what)) = differ.iter().find(|(yes, _)| *yes) {
        return Some(what);
    }
    let (Some(w), Some(g)) = (&w.options, &g.options) else { return None };
    let same = |(w, g): (&Opt, &Opt)| match (w, g) {
        (Opt::Ts(wv, we), Opt::Ts(gv, ge)) => {
            let near = |w: u32, g: u32| i64::from(w.wrapping_sub(g) as i32).abs() <= ts_slack_ms;
            wv.is_none_or(|v| gv.is_some_and(|g| near(v, g))) && (we.is_none() || we == ge)
        }
        _ => w == g,
    };
    let all = w.len() == g.len() && w.iter().zip(g).all(same);
    (!all).then_some("the options differ")
}
