use super::*;

pub(super) fn spec() -> Spec {
    Spec {
        queues: 2,
        ring: 512,
        cpus: 2,
        pps: 1e6,
        frame: 60,
        flows: 1000,
        arrivals: Arrivals::Random,
        knobs: Vec::new(),
        costs: Costs::default(),
        time: 50_000_000,
        warm: 10_000_000,
        seed: 7,
    }
}

fn go(spec: &Spec) -> Outcome {
    run(spec, &mut |_| ()).expect("a machine")
}

#[test]
fn below_its_limit_a_machine_loses_nothing_and_works_as_much_as_that_costs() {
    let spec = spec();
    let out = go(&spec);
    assert!(out.drops.is_empty() && out.first.is_none(), "{:?}", out.drops);
    // A million packets a second for 50 ms.
    assert!((48_000..52_000).contains(&out.offered), "{}", out.offered);
    assert!(out.offered.abs_diff(out.delivered) < 200, "{} {}", out.offered, out.delivered);
    let each = spec.costs.packet(spec.frame) * spec.pps / 2.0 / 1e9;
    for busy in &out.busy {
        assert!(*busy > each && *busy < 1.0, "{busy} {each}");
    }
    let (half, most) = (out.latency.percentile(0.5), out.latency.max());
    assert!(
        half as f64 >= spec.costs.packet(spec.frame) && half < 100_000 && most < 1_000_000,
        "{half} {most}"
    );
}

#[test]
fn a_seed_repeats_a_run() {
    let (a, b) = (go(&spec()), go(&spec()));
    assert_eq!((a.offered, a.delivered, a.irqs), (b.offered, b.delivered, b.irqs));
    assert_eq!(a.latency.percentile(0.99), b.latency.percentile(0.99));
    assert_eq!(a.busy, b.busy);
}

/// What a processor can do follows from the costs; above that, what it can not do is lost, and somewhere
/// that can be named.
#[test]
fn above_its_limit_what_is_too_much_is_lost() {
    let mut spec = spec();
    let limit = 2e9 / spec.costs.packet(spec.frame);
    spec.pps = 1.5 * limit;
    let out = go(&spec);
    let (first, ..) = out.first.expect("something is lost");
    assert!(matches!(first, Stage::Ring | Stage::SockQueue), "{first:?}");
    let could = out.delivered as f64 * 1e9 / spec.time as f64;
    assert!(could < limit && could > 0.6 * limit, "{could} of {limit}");
    assert!(out.busy.iter().all(|b| *b > 0.97), "{:?}", out.busy);
    assert!((out.lost() - (1.0 - could / spec.pps)).abs() < 0.05, "{}", out.lost());
}

#[test]
fn a_larger_ring_bears_a_longer_burst() {
    let mut spec = spec();
    (spec.queues, spec.cpus, spec.flows) = (1, 1, 1);
    (spec.arrivals, spec.pps, spec.ring) = (Arrivals::Bursts(1000), 2e5, 256);
    let small = go(&spec);
    assert!(small.drops.iter().any(|d| d.0 == Stage::Ring), "{:?}", small.drops);
    spec.ring = 1024;
    assert!(go(&spec).drops.iter().all(|d| d.0 != Stage::Ring));
}

#[test]
fn rps_takes_load_off_the_processor_that_has_the_interrupt() {
    let mut spec = spec();
    (spec.queues, spec.cpus) = (1, 4);
    spec.costs.app = 1000.0;
    spec.pps = 1.5e6;
    let alone = go(&spec);
    assert!(alone.lost() > 0.2, "{}", alone.lost());
    assert_eq!(alone.busy.iter().filter(|b| **b > 0.01).count(), 1, "{:?}", alone.busy);
    spec.knobs = vec![("rps_cpus".to_owned(), "f".to_owned())];
    let spread = go(&spec);
    assert!(spread.lost() < alone.lost() / 2.0, "{} {}", spread.lost(), alone.lost());
    assert!(spread.busy.iter().all(|b| *b > 0.2), "{:?}", spread.busy);
}

#[test]
fn moderation_makes_interrupts_fewer_and_latency_longer() {
    let mut spec = spec();
    spec.pps = 1e5;
    let each = go(&spec);
    spec.knobs = vec![("coalesce.rx-usecs".to_owned(), "200".to_owned())];
    let moderated = go(&spec);
    assert!(moderated.irqs < each.irqs / 2, "{} {}", moderated.irqs, each.irqs);
    assert!(moderated.latency.percentile(0.5) > 2 * each.latency.percentile(0.5));
}

#[test]
fn what_can_not_be_is_said() {
    let wrong = |f: &dyn Fn(&mut Spec)| {
        let mut spec = spec();
        f(&mut spec);
        run(&spec, &mut |_| ()).expect_err("no machine").to_string()
    };
    assert!(wrong(&|s| s.queues = 0).contains("number of queues must be 1 to 64"));
    assert!(wrong(&|s| s.cpus = 65).contains("processors"));
    assert!(wrong(&|s| s.pps = f64::NAN).contains("rate"));
    assert!(wrong(&|s| s.frame = 20).contains("frame"));
    assert!(wrong(&|s| s.arrivals = Arrivals::Bursts(0)).contains("burst"));
    assert!(wrong(&|s| s.costs.app = -1.0).contains("cost"));
    let knob = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    assert!(wrong(&|s| s.knobs = vec![knob("net.core.nonsense", "1")]).contains("nonsense"));
    assert!(wrong(&|s| s.knobs = vec![knob("net.core.netdev_budget", "-1")]).contains("budget"));
}

/// The rate at which more than a thousandth is lost, to a hundredth of itself, and where the first is.
fn begins(spec: &Spec, run: impl Fn(&Spec) -> Outcome) -> (f64, Stage) {
    let (mut below, mut above, mut first) = (1e5_f64, 2e7_f64, None);
    while above / below > 1.01 {
        let pps = (below * above).sqrt();
        let out = run(&Spec { pps, ..spec.clone() });
        if out.lost() > 0.001 {
            (above, first) = (pps, out.first);
        } else {
            below = pps;
        }
    }
    (above, first.expect("something is lost").0)
}

/// What differs between paper and threads but time: who has a turn when, how the card tells, whose clock
/// the loop has. None of it may change what becomes of a single packet.
#[test]
fn threads_whose_time_is_counted_do_what_paper_says_packet_by_packet() {
    let mut base = Spec { warm: 0, time: 10_000_000, pps: 2e6, ..spec() };
    // The eventfd of a thread stays raised: it has another number of interrupts, all without work.
    base.costs.irq = 0.0;
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let budget = |n: &str| vec![set("net.core.netdev_budget", n)];
    let machines = [
        base.clone(),
        Spec { ring: 256, knobs: budget("64"), ..base.clone() },
        Spec { ring: 4096, knobs: budget("300"), pps: 6e6, ..base.clone() },
        Spec { queues: 1, cpus: 1, frame: 1514, flows: 5000, ..base.clone() },
        Spec { queues: 4, cpus: 2, arrivals: Arrivals::Bursts(300), ..base.clone() },
        Spec { queues: 1, cpus: 1, arrivals: Arrivals::Even, pps: 4e6, ..base },
    ];
    for mut machine in machines {
        machine.knobs.extend(polls().map(|(name, value)| set(name, value)));
        let paper = |spec: &Spec| go(spec);
        let threads = |spec: &Spec| counted(spec).expect("a machine");
        let (a, b) = (paper(&machine), threads(&machine));
        assert!(a.offered > 10_000, "{machine:?}");
        assert_eq!((a.offered, a.delivered, &a.entered), (b.offered, b.delivered, &b.entered));
        assert_eq!((&a.drops, a.first), (&b.drops, b.first), "{machine:?}");
        let (on_paper, on_threads) = (begins(&machine, paper), begins(&machine, threads));
        assert_eq!(on_paper, on_threads, "{machine:?}");
        // The rate has to do with what the costs say: no model of a queue is needed for that.
        let limit = machine.cpus as f64 * 1e9 / machine.costs.packet(machine.frame);
        assert!(on_paper.0 < limit * 1.05, "{on_paper:?} {limit}");
    }
}
