//! What processors do to save energy: `/sys/devices/system/cpu/cpufreq`, `.../cpuN/cpuidle`.
//!
//! Linux: drivers/cpufreq/cpufreq.c, drivers/cpuidle/sysfs.c

use super::{number, value};
use crate::counters::Counters;
use crate::snapshot::{IdleState, Snapshot};

/// The directory of policies: processors that have one frequency together.
pub const POLICIES: &str = "sys/devices/system/cpu/cpufreq";

/// Files of a policy.
pub const POLICY: [&str; 5] = [
    "scaling_governor",
    "scaling_driver",
    "energy_performance_preference",
    "scaling_max_freq",
    "cpuinfo_max_freq",
];

/// Idle states of one processor; the most the kernel has (`CPUIDLE_STATE_MAX`) is 10.
const STATES_MAX: usize = 16;

/// States out of which a processor comes within this time, in µs, are nobody's concern.
pub const SHALLOW_US: u64 = 10;

/// The directory of a processor's idle states.
#[must_use]
pub fn idle_dir(cpu: u32) -> String {
    format!("sys/devices/system/cpu/cpu{cpu}/cpuidle")
}

/// A file of [`POLICY`], of `policyN`: fills [`crate::snapshot::Power::policies`].
pub fn policy(policy: u32, file: &str, bytes: &[u8], into: &mut Snapshot) {
    // Drivers say "<unsupported>", and the kernel is asked for what it does not have by other names.
    let Some(text) = value(bytes).filter(|t| !t.is_empty() && t.len() < 64) else { return };
    let of = into.power.policies.entry(policy).or_default();
    match file {
        "scaling_governor" => text.clone_into(&mut of.governor),
        "scaling_driver" => text.clone_into(&mut of.driver),
        "energy_performance_preference" => text.clone_into(&mut of.preference),
        "scaling_max_freq" => of.max_khz = text.parse().ok(),
        "cpuinfo_max_freq" => of.able_khz = text.parse().ok(),
        _ => {}
    }
}

/// `name` and `latency` of `cpuN/cpuidle/stateM`; `None` if they are not what they should be.
#[must_use]
pub fn state(name: &[u8], latency: &[u8]) -> Option<(String, u64)> {
    let name = value(name).filter(|n| !n.is_empty() && n.len() <= 32)?;
    Some((name.chars().filter(|c| !c.is_control()).collect(), number(latency)?))
}

/// `disable` and `time` of a state that [`state`] told of: fills [`crate::snapshot::Power::idle`].
pub fn idle(
    cpu: u32,
    place: &str,
    (name, latency_us): (&str, u64),
    (disable, time): (&[u8], &[u8]),
    into: &mut Snapshot,
) {
    let Some(time) = number(time) else {
        into.note(format!("/{}/{place}/time", idle_dir(cpu)), "it is not a number");
        return;
    };
    let states = into.power.idle.entry(cpu).or_default();
    if states.len() < STATES_MAX {
        let mut times = Counters::new(format!("/{}/{place}", idle_dir(cpu)));
        times.set("time", time);
        let disabled = number(disable).is_some_and(|n| n > 0);
        states.push(IdleState { name: name.to_owned(), latency_us, disabled, times });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_states_are_read_and_garbage_is_not() {
        let mut into = Snapshot::default();
        policy(4, "scaling_governor", b"powersave\n", &mut into);
        policy(4, "scaling_max_freq", b"1200000\n", &mut into);
        policy(4, "cpuinfo_max_freq", b"<unknown>\n", &mut into);
        policy(4, "energy_performance_preference", &[0xff; 9], &mut into);
        let of = &into.power.policies[&4];
        assert_eq!(
            (of.governor.as_str(), of.max_khz, of.able_khz),
            ("powersave", Some(1200000), None)
        );
        assert_eq!(of.preference, "");
        assert_eq!(state(b"C6\n", b"133\n"), Some(("C6".into(), 133)));
        assert_eq!(state(b"C6\n", b"\n"), None);
        assert_eq!(state(b"", b"1\n"), None);
        idle(1, "state3", ("C6", 133), (b"0\n", b"77\n"), &mut into);
        idle(1, "state2", ("C1E", 10), (b"0\n", b"-\n"), &mut into);
        let states = &into.power.idle[&1];
        assert_eq!((states.len(), states[0].times.get("time")), (1, Some(77)));
        assert!(!states[0].disabled && into.notes.len() == 1, "{:?}", into.notes);
    }
}
