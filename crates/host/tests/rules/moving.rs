//! Hosts whose counters, devices and processors come and go between two moments: none of it is a finding.

use linerate_host::counters::Counters;
use linerate_host::snapshot::Snapshot;

use crate::build::Run;

/// Every set of counters of a moment.
fn all(s: &mut Snapshot) -> Vec<&mut Counters> {
    let mut all: Vec<&mut Counters> = Vec::new();
    all.extend(s.softnet.values_mut());
    all.extend(s.softirqs.values_mut());
    all.extend(s.cpus.values_mut());
    all.extend(s.mib.values_mut());
    all.extend(s.neigh.values_mut());
    all.extend(s.irqs.values_mut().map(|irq| &mut irq.counts));
    all.extend(s.conntrack.iter_mut().map(|c| &mut c.stat));
    for dev in s.devs.values_mut() {
        all.extend([&mut dev.stats, &mut dev.carrier, &mut dev.driver_stats, &mut dev.qstats]);
        all.extend(dev.qdiscs.iter_mut().map(|q| &mut q.stats));
    }
    all
}

fn change(s: &mut Snapshot, to: impl Fn(u64, u64) -> u64) {
    for counters in all(s) {
        let mask = match counters.bits() {
            0 | 64 => u64::MAX,
            bits => (1 << bits) - 1,
        };
        let now: Vec<(String, u64)> =
            counters.iter().map(|(name, value)| (name.to_owned(), to(value, mask))).collect();
        counters.extend(now.iter().map(|(name, value)| (name.as_str(), *value)));
    }
}

/// A driver was loaded anew, or a namespace made anew under the same name.
#[test]
fn counters_that_begin_again_are_no_loss() {
    for at in 1..3 {
        Run::healthy()
            .each(|s, n| {
                if n >= at {
                    change(s, |value, _| value / 1000);
                }
            })
            .silent();
    }
    Run::healthy()
        .each(|s, n| {
            if n % 2 == 1 {
                change(s, |_, _| 0);
            }
        })
        .silent();
}

/// Counters of 32 bits begin anew behind their largest value, and grow as they did.
#[test]
fn counters_that_wrap_are_as_they_were() {
    let healthy = Run::healthy();
    let wrapped = Run::healthy().each(|s, _| {
        change(s, |value, mask| match mask {
            // Few steps before the end of the range, which some cross.
            0xffff_ffff => value.wrapping_add(mask - 1500) & mask,
            _ => value,
        });
    });
    wrapped.silent();
    let rate = |run: &Run| {
        let of = |cpu| run.window().softnet(cpu, "processed").map(|d| d.by);
        [of(0), of(1)]
    };
    assert_eq!(rate(&healthy), rate(&wrapped));
    assert!(rate(&wrapped)[0].is_some_and(|by| by > 0));
}

#[test]
fn devices_and_processors_that_come_and_go_are_no_loss() {
    for odd in [0, 1] {
        Run::healthy()
            .each(|s, n| {
                if n % 2 == odd {
                    s.devs.remove("eth0");
                    s.irqs.clear();
                }
            })
            .silent();
        Run::healthy()
            .each(|s, n| {
                if n % 2 == odd
                    && let Some(cpu) = s.host.cpus.pop()
                {
                    s.softnet.remove(&cpu);
                    s.softirqs.remove(&cpu);
                    s.cpus.remove(&cpu);
                }
            })
            .silent();
    }
    // Another device of that name, with another index and counters of its own.
    Run::healthy()
        .each(|s, n| {
            let dev = s.devs.get_mut("eth0").expect("it is there");
            dev.ifindex = 100 + n as u32;
        })
        .silent();
}

#[test]
fn settings_and_files_that_vanish_are_no_finding() {
    for odd in [0, 1] {
        Run::healthy()
            .each(|s, n| {
                if n % 2 == odd {
                    s.sysctls.clear();
                    s.mib.remove("TcpExt");
                    s.sockstat.clear();
                    s.conntrack = None;
                    s.sockets = Default::default();
                    s.neigh.clear();
                }
            })
            .silent();
    }
}

/// A clock that stands still, or goes back, divides nothing by zero.
#[test]
fn moments_at_the_same_time_say_nothing_wrong() {
    for to in [0_u64, 1, u64::MAX] {
        let run = Run::healthy().each(|s, n| s.monotonic_ns = to.saturating_sub(n));
        for finding in run.diagnose() {
            assert!(finding.loss_per_s.is_finite(), "{finding:?}");
        }
    }
}
