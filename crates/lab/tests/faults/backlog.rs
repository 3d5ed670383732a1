//! Packets that a processor has no time for.

use std::cell::Cell;
use std::time::Duration;

use super::doctor::{Case, Cure, prove};
use super::rig::{FAR, HostWide, Rig, rig};
use super::traffic::{flood, pin};

/// A flood from processor 0 whose packets processor 1 has to work on.
fn steered(test: &str, dear: usize) -> Option<Rig> {
    let rig = rig(test, &["nft"])?;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        super::rig::skip(test, "one processor can not steer to another");
        return None;
    }
    rig.near.sh("ethtool -K va tx-udp-segmentation off");
    for queue in 0..2 {
        rig.far.sysfs(&format!("class/net/vb/queues/rx-{queue}/rps_cpus"), "2");
    }
    swallow(&rig, dear);
    Some(rig)
}

/// What gets through the backlog goes nowhere, and that is nobody's loss.
fn swallow(rig: &Rig, dear: usize) {
    // Many rules before it, so that the receiver is slower than the sender.
    let dear = "add rule ip f in ip saddr 192.0.2.1 drop; ".repeat(dear);
    rig.far.nft(&format!(
        "add table ip f; add chain ip f in {{ type filter hook prerouting priority 0; }}; \
         {dear} add rule ip f in udp dport 9 drop"
    ));
}

fn burst(rig: &Rig, how_long: Duration) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            flood(&rig.near, (FAR, 9), how_long);
        });
    });
}

#[test]
fn a_backlog_that_overflows_in_bursts_is_made_longer() {
    let Some(rig) = steered("a_backlog_that_overflows_in_bursts_is_made_longer", 0) else { return };
    let _length = HostWide::set("net.core.netdev_max_backlog", "50");
    let case = Case { ns: &rig.far, rule: "R15", also: &[] };
    prove(
        &case,
        || {
            for _ in 0..20 {
                burst(&rig, Duration::from_micros(50));
                std::thread::sleep(Duration::from_millis(5));
            }
        },
        Cure::None,
    );
}

#[test]
fn a_flow_over_its_limit_is_named() {
    let Some(rig) = steered("a_flow_over_its_limit_is_named", 100) else { return };
    let _length = HostWide::set("net.core.netdev_max_backlog", "50");
    let bitmap = Cell::new(Some(HostWide::set("net.core.flow_limit_cpu_bitmap", "1")));
    let case = Case { ns: &rig.far, rule: "R22", also: &["R15"] };
    prove(&case, || burst(&rig, Duration::from_millis(200)), Cure::By(&mut || drop(bitmap.take())));
}

#[test]
fn a_budget_that_is_too_small_squeezes() {
    let Some(rig) = rig("a_budget_that_is_too_small_squeezes", &["nft"]) else { return };
    rig.near.sh("ethtool -K va tx-udp-segmentation off");
    rig.far.sh("ethtool -K vb gro on");
    swallow(&rig, 0);
    let _budget = HostWide::set("net.core.netdev_budget", "32");
    let case = Case { ns: &rig.far, rule: "R16", also: &[] };
    prove(&case, || burst(&rig, Duration::from_millis(100)), Cure::None);
}
