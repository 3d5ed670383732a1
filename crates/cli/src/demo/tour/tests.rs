//! Goal: the lesson is true, and each knob and drop of it does exactly what its row says.
//! Method: the scenes themselves, and the bench with values between.

use super::*;

fn scene(name: &str) -> &'static Scene {
    SCENES.iter().find(|s| s.name == name).expect("a scene")
}

/// The scene's load under another value of its knob, on a fresh bench.
fn under(scene: &Scene, value: &'static str) -> Phase {
    let (wires, netif_rx) = match scene.load {
        Load::Burst { wires, netif_rx, .. } => (wires, netif_rx),
        Load::Connect(_) => (1, false),
    };
    let mut lab = Lab::new(wires, netif_rx).expect("a bench in memory");
    let phase = phase(&mut lab, scene, value).expect("a load");
    assert_eq!(lab.unaccounted(), [], "{}", scene.name);
    phase
}

fn counter(phase: &Phase, name: &str) -> u64 {
    phase.counters.iter().find(|(n, _)| *n == name).expect("a counter of the scene").1
}

#[test]
fn every_scene_shows_its_loss_and_its_cure() {
    for scene in &SCENES {
        let seen = play(scene).expect("a bench in memory");
        assert!(seen.faults.is_empty(), "{}: {:?}", scene.name, seen.faults);
    }
}

#[test]
fn a_burst_is_the_same_every_time() {
    // Clients of the last scene repeat their SYNs by the clock, which a test can not hold still.
    for scene in SCENES.iter().filter(|s| matches!(s.load, Load::Burst { .. })) {
        let [one, two] = [(), ()].map(|()| play(scene).expect("a bench in memory"));
        let figures = |s: &Seen| serde_json::to_string(s).expect("plain values");
        assert_eq!(figures(&one), figures(&two));
    }
}

#[test]
fn a_knob_that_does_not_help_is_found_out() {
    let scene = scene("ring");
    let useless = Scene { values: [scene.values[0]; 2], ..*scene };
    let seen = play(&useless).expect("a bench in memory");
    assert!(!seen.faults.is_empty());
}

#[test]
fn texts_fit_the_width() {
    let mut text = String::new();
    SCENES.iter().for_each(|s| wrap(&mut text, "   ", s.lesson));
    assert!(text.lines().all(|l| l.len() <= WIDTH && l.starts_with("   ")));
}

#[test]
fn knob_ring_rx() {
    for (value, fits) in [("1", 1), ("64", 64), ("300", 300), ("512", 512), ("4096", 512)] {
        assert_eq!(under(scene("ring"), value).received, fits);
    }
}

#[test]
fn drop_ring_full() {
    let phase = under(scene("ring"), "100");
    assert_eq!((phase.sent, phase.received, phase.dropped), (512, 100, 412));
    assert_eq!((counter(&phase, "rx_missed_errors"), phase.dropped_in_all), (412, 412));
}

#[test]
fn knob_net_core_netdev_budget() {
    // Of 800 packets a pass takes as many as the budget; what ends a pass with work left is counted.
    for (value, passes) in [("100", 8), ("160", 5), ("400", 2), ("801", 1)] {
        let phase = under(scene("budget"), value);
        assert_eq!((phase.received, counter(&phase, "NET_RX")), (800, passes), "{value}");
        assert_eq!(counter(&phase, "SoftnetSqueezeBudget"), counter(&phase, "time_squeeze"));
        assert_eq!(counter(&phase, "SoftnetSqueezeTime"), 0);
    }
}

#[test]
fn knob_net_core_netdev_budget_usecs() {
    let mut lab = Lab::new(4, false).expect("a bench in memory");
    for (value, squeezed) in [("10000000", false), ("1", true), ("10000000", false)] {
        lab.set("net.core.netdev_budget_usecs", value).expect("in range");
        lab.set("net.core.netdev_budget", "10000").expect("in range");
        let before = lab.counter(Counter::SoftnetSqueezeTime);
        assert_eq!(lab.burst(200, false, false).expect("a load").items, 800);
        assert_eq!(lab.counter(Counter::SoftnetSqueezeTime) > before, squeezed, "{value}");
    }
    assert_eq!(lab.counter(Counter::SoftnetSqueezeBudget), 0);
}

#[test]
fn knob_net_core_dev_weight() {
    // With one packet a device in each round, the backlog is emptied as fast as four devices fill
    // a quarter of it; with 64 the second to fourth device fill it up first.
    let mut kept = Vec::new();
    for weight in ["1", "64"] {
        let mut lab = Lab::new(4, true).expect("a bench in memory");
        lab.set("net.core.dev_weight", weight).expect("in range");
        lab.set("net.core.netdev_max_backlog", "4").expect("in range");
        kept.push(lab.burst(100, false, false).expect("a load").items);
        assert_eq!(lab.drops(Reason::CpuBacklog), 400 - kept.last().expect("one"));
    }
    assert!(kept[0] > kept[1], "{kept:?}");
}

#[test]
fn knob_net_core_netdev_max_backlog() {
    let kept = ["0", "50", "100", "400", "1000"].map(|v| under(scene("backlog"), v).received);
    assert!(kept.is_sorted() && kept[0] == 0 && kept[4] == 800, "{kept:?}");
    assert!(kept.windows(2).all(|w| w[0] < w[1]), "{kept:?}");
}

#[test]
fn drop_cpu_backlog() {
    let phase = under(scene("backlog"), "0");
    assert_eq!((phase.received, phase.dropped, phase.dropped_in_all), (0, 800, 800));
    assert_eq!((counter(&phase, "dropped"), counter(&phase, "rx_dropped")), (800, 800));
}

#[test]
fn knob_net_core_rmem_default() {
    let held = ["16384", "65536", "262144"].map(|v| under(scene("rcvbuf"), v).received);
    // Four times the buffer holds four times the datagrams, but for what does not divide.
    assert!(held[0] > 0 && held[1].abs_diff(held[0] * 4) < 4, "{held:?}");
    assert!(held[2].abs_diff(held[1] * 4) < 4, "{held:?}");
}

#[test]
fn drop_socket_rcvbuff() {
    let phase = under(scene("rcvbuf"), "65536");
    assert_eq!(phase.received + phase.dropped, 300);
    assert!(phase.dropped > 0);
    assert_eq!(counter(&phase, "RcvbufErrors"), phase.dropped);
    assert_eq!(counter(&phase, "InErrors"), phase.dropped);
}

#[test]
fn knob_net_core_somaxconn() {
    // As in Linux the queue takes one more than its limit.
    for (value, taken) in [("0", 1), ("4", 5), ("20", 21), ("31", 32), ("4096", 32)] {
        assert_eq!(under(scene("listen"), value).received, taken, "{value}");
    }
}

#[test]
fn drop_tcp_listen_overflow() {
    let phase = under(scene("listen"), "4");
    // A SYN that is repeated while the machine is slow is dropped once more.
    assert!(phase.dropped >= 27, "{}", phase.dropped);
    assert_eq!(counter(&phase, "ListenOverflows"), phase.dropped);
    assert_eq!(counter(&phase, "ListenDrops"), phase.dropped);
}
