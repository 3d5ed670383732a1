//! What processors do to save energy, where latency is the goal.

use linerate_core::table::Stage;

use super::{Check, Rule, look};
use crate::change::Change;
use crate::finding::{Finding, Risk, Severity};
use crate::snapshot::Policy;
use crate::window::{Cx, Goal, Window};

/// R86.
pub(super) const RULES: &[Rule] = &[Rule {
    id: "R86",
    name: "power-latency",
    title: "processors save energy, and latency is the goal",
    stage: Stage::Irq,
    evidence: "With the goal latency: a governor or a preference for energy keeps the frequency \
        low, or its maximum is set below what the processor can do; or a processor spent at least \
        `idle_share` of its time in idle states that take `idle_exit_us` or more to leave.",
    causes: "A profile for energy, or the default: a packet then waits until its processor has \
        woken, and is worked on slowly.",
    advice: "The governor `performance`; idle states bounded while it matters.",
    traps: "With intel_pstate and amd-pstate the governor `powersave` scales by load: there the \
        preference counts. Energy and heat; turbo frequencies may even become lower where nobody \
        sleeps.",
    cites: &[
        "Documentation/admin-guide/pm/cpufreq.rst",
        "Documentation/admin-guide/pm/cpuidle.rst",
        "tuned profile network-latency (force_latency)",
    ],
    suppresses: &[],
    check: Check::Host(saving),
}];

/// Policies that are changed one by one; where there are more, a command for all of them is told.
const POLICIES_MAX: usize = 8;

fn saving(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    if cx.goal != Goal::Latency {
        return None;
    }
    let slow: Vec<(u32, &Policy)> =
        cx.now().power.policies.iter().filter(|(_, p)| is_slow(p)).map(|(n, p)| (*n, p)).collect();
    let asleep = deepest(cx, &cx.whole());
    if slow.is_empty() && asleep.is_none() {
        return None;
    }
    let mut found = rule.found(cx, "").state(Severity::Info);
    if let Some((first, policy)) = slow.first() {
        let dir = format!("/sys/devices/system/cpu/cpufreq/policy{first}");
        found = found.is(&dir, "scaling_governor", policy.governor.as_str());
        if !policy.preference.is_empty() {
            found = found.is(&dir, "energy_performance_preference", policy.preference.as_str());
        }
        if let (Some(max), Some(able)) = (policy.max_khz, policy.able_khz) {
            found = found.is(&dir, "scaling_max_freq", max).is(&dir, "cpuinfo_max_freq", able);
        }
        let n = slow.len();
        let what = if n == 1 { "1 frequency is" } else { &format!("{n} frequencies are") };
        found = found.because(format!("{what} kept low to save energy."));
    }
    if let Some(asleep) = asleep {
        found = found.is(&asleep.source, "time", look::percent(asleep.share)).because(format!(
            "cpu{} sleeps in {} for {} of the time, and needs {} µs to wake.",
            asleep.cpu,
            asleep.name,
            look::percent(asleep.share),
            asleep.exit_us
        ));
    }
    for (n, policy) in slow.iter().take(POLICIES_MAX) {
        let dir = format!("/sys/devices/system/cpu/cpufreq/policy{n}");
        let change = (policy.governor != "performance").then(|| Change::File {
            path: format!("{dir}/scaling_governor"),
            value: "performance".into(),
        });
        found = found.advise_if("Let it run at its speed.", change, Risk::Global);
    }
    if !slow.is_empty() {
        found = found.suggest("All processors at once: `cpupower frequency-set -g performance`.");
    }
    let bound = cx.limits.idle_exit_us as u64;
    let bound = format!(
        "Bound the idle states: `cpupower idle-set -D {bound}`, or tuned's profile \
        network-latency."
    );
    Some(found.suggest(bound).done())
}

/// Whether the frequency is kept low.
fn is_slow(policy: &Policy) -> bool {
    let capped = policy.max_khz.zip(policy.able_khz).is_some_and(|(max, able)| max < able / 10 * 9);
    let slow = match policy.preference.as_str() {
        // Without a preference it is the governor's doing.
        "" => ["powersave", "conservative"].contains(&policy.governor.as_str()),
        preference => ["power", "balance_power"].contains(&preference),
    };
    slow || capped
}

struct Asleep {
    cpu: u32,
    name: String,
    exit_us: u64,
    share: f64,
    source: String,
}

/// The processor that spent most of its time in a state that takes long to leave.
fn deepest(cx: &Cx<'_>, w: &Window<'_>) -> Option<Asleep> {
    let deep = cx.now().power.idle.iter().flat_map(|(cpu, states)| {
        let states = states.iter().enumerate();
        states.filter_map(move |(at, state)| {
            if state.disabled || (state.latency_us as f64) < cx.limits.idle_exit_us {
                return None;
            }
            let time = w.of("time", |s| Some(&s.power.idle.get(cpu)?.get(at)?.times))?;
            let share = time.per_s / 1e6;
            let source = state.times.source().to_owned();
            let (name, exit_us) = (state.name.clone(), state.latency_us);
            Some(Asleep { cpu: *cpu, name, exit_us, share, source })
        })
    });
    deep.filter(|a| a.share >= cx.limits.idle_share).max_by(|a, b| a.share.total_cmp(&b.share))
}
