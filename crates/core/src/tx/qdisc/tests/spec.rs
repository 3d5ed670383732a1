use super::*;

/// What was asked for reads back, and means the same when it is asked for again.
#[test]
fn specifications_read_back() {
    let cases = [
        ("pfifo_fast", "pfifo_fast"),
        ("root pfifo limit 100", "pfifo limit 100p"),
        ("bfifo limit 30k", "bfifo limit 30Kb"),
        ("tbf rate 1mbit burst 10k latency 70ms", "tbf rate 1Mbit burst 10Kb latency 70ms"),
        (
            "tbf rate 1500kbit buffer 2000 limit 3m peakrate 2mbit mtu 1540 overhead 4 mpu 64",
            "tbf rate 1500Kbit burst 2000b peakrate 2Mbit minburst 1540b limit 3Mb mpu 64b overhead 4",
        ),
        ("netem delay 40ms 5ms loss 1%", "netem limit 1000 delay 40ms  5ms loss 1%"),
        (
            "netem delay 100ms 20ms 25% distribution normal loss 0.3% 25% duplicate 1% corrupt 0.1% \
             reorder 25% 50% gap 5 rate 5kbit 20 100 5 limit 50 seed 9",
            "netem limit 50 delay 100ms  20ms 25% distribution normal loss 0.3% 25% duplicate 1% \
             reorder 25% 50% corrupt 0.1% rate 5Kbit packetoverhead 20 cellsize 100 \
             celloverhead 5 gap 5 seed 9",
        ),
        ("prio", "prio bands 3 priomap 1 2 2 2 1 2 0 0 1 1 1 1 1 1 1 1"),
        ("prio bands 2", "prio bands 2 priomap 1 1 1 1 1 1 0 0 1 1 1 1 1 1 1 1"),
        ("sfq perturb 10", "sfq limit 127p depth 127 flows 127 divisor 1024 perturb 10"),
        (
            "sfq quantum 3000 limit 500 headdrop divisor 512",
            "sfq limit 500p quantum 3000b depth 127 headdrop flows 127 divisor 512",
        ),
        ("codel", "codel limit 1000p target 5ms interval 100ms"),
        (
            "codel ecn target 2ms limit 50 ce_threshold 80us",
            "codel limit 50p target 2ms ce_threshold 80us interval 100ms ecn",
        ),
        (
            "fq maxrate 5mbit nopacing",
            "fq limit 10000p flow_limit 100p buckets 1024 maxrate 5Mbit nopacing low_rate_threshold \
             550Kbit refill_delay 40ms",
        ),
        (
            "fq_codel",
            "fq_codel limit 10240p flows 1024 target 5ms interval 100ms memory_limit 32Mb ecn \
             drop_batch 64",
        ),
        (
            "fq_codel limit 1024 quantum 300 noecn flows 64 memory_limit 4m drop_batch 32",
            "fq_codel limit 1024p flows 64 quantum 300 target 5ms interval 100ms memory_limit 4Mb \
             drop_batch 32 noecn",
        ),
        (
            "netem loss gemodel 1% 10% 70% 0.1%",
            "netem limit 1000 loss gemodel p 1% r 10% 1-h 70% 1-k 0.1%",
        ),
        ("netem slot 5ms packets 3", "netem limit 1000 slot 5ms 5ms packets 3"),
        (
            "netem delay 1ms slot distribution pareto 8ms 2ms packets 9 bytes 64k",
            "netem limit 1000 delay 1ms slot distribution pareto 8ms 2ms packets 9 bytes 65536",
        ),
        (
            "netem loss state 1%",
            "netem limit 1000 loss state p13 1% p31 99% p32 0% p23 100% p14 0%",
        ),
        (
            "handle 1: tbf rate 8mbit burst 32k latency 50ms; parent 1: handle a: netem delay 1500us",
            "handle 1: tbf rate 8Mbit burst 32Kb latency 50ms; parent 1:1 handle a: netem limit 1000 delay 1.5ms",
        ),
    ];
    for (asked, want) in cases {
        let tree = Tree::parse(asked).expect(asked);
        assert_eq!(tree.text(), want);
        let again = Tree::parse(want).expect(want);
        assert_eq!(again.text(), want);
    }
}

/// Each mistake is one sentence, which names the parameter and what it takes.
#[test]
fn a_wrong_specification_is_refused_with_its_reason() {
    let cases = [
        ("", "a queueing discipline is needed, such as fq_codel"),
        ("red", "no queueing discipline is called \"red\"; there are "),
        ("pfifo_fast limit 3", "pfifo_fast takes no parameters, and so no \"limit\""),
        ("pfifo limit 0", "limit of pfifo can not be 0: it is from 1 to 1000000"),
        ("pfifo limit", "limit needs a value: a number"),
        ("pfifo limit many", "limit can not be \"many\": it is a number"),
        ("tbf burst 10k latency 1s", "tbf needs rate"),
        ("tbf rate 1mbit latency 1s", "tbf needs burst"),
        ("tbf rate 1mbit burst 10k", "tbf needs limit or latency"),
        (
            "tbf rate 1mbit burst 10k latency 2h",
            "latency can not be \"2h\": it is a time such as 5ms",
        ),
        (
            "tbf rate 900gbit burst 1 limit 1",
            "rate of tbf can not be 900gbit: it is from 8bit to 100Gbit",
        ),
        ("tbf rate 1mbit burst 2k limit 1m peakrate 2mbit", "tbf needs mtu, because of peakrate"),
        (
            "tbf rate 3mbit burst 2k limit 1m peakrate 2mbit mtu 2k",
            "tbf: peakrate is to be larger than rate",
        ),
        ("netem delay 2000s 5000s", "jitter of netem can not be 5000s: it is from 0ns to 2.15s"),
        ("netem delay 90000s", "delay of netem can not be 90000s: it is from 0ns to 3600s"),
        ("netem loss 101%", "loss of netem can not be 101%: it is from 0% to 100%"),
        ("netem loss -1%", "loss of netem can not be -1%: it is from 0% to 100%"),
        (
            "netem delay 1ms 1ms distribution bell",
            "distribution can not be \"bell\": it is uniform, normal",
        ),
        ("netem distribution normal", "netem: a distribution is of the jitter"),
        ("netem reorder 5%", "netem: what is to be reordered has to be delayed: delay TIME"),
        ("netem dealy 5ms", "netem has no parameter \"dealy\"; it takes limit, delay"),
        ("netem slot 5ms 2ms", "longest delay of slot of netem can not be 2ms: it is from 5ms to"),
        ("netem slot packets 5", "delay of slot can not be \"packets\": it is a time such as 5ms"),
        ("netem ecn", "netem: ecn marks what is to be lost: loss PERCENT"),
        ("fq_codel target 20s", "target of fq_codel can not be 20s: it is from 1us to 10s"),
        ("fq_codel flows 0", "flows of fq_codel can not be 0: it is from 1 to 65535"),
        (
            "fq_codel tagret 5ms",
            "fq_codel has no parameter \"tagret\"; it takes limit, flows, target",
        ),
        ("codel limit 2000000", "limit of codel can not be 2000000: it is from 1 to 1000000"),
        ("fq maxrate fast", "maxrate can not be \"fast\": it is a rate such as 10mbit"),
        ("sfq divisor 100", "sfq: divisor is to be a power of two"),
        ("prio bands 17", "bands of prio can not be 17: it is from 2 to 16"),
        ("prio bands 2 priomap 0 0 0 2", "prio: priomap names a band that bands does not have"),
        ("prio; parent 8001:4 pfifo", "the classes of prio are 8001:1 to 8001:3"),
        ("pfifo; pfifo", "expected parent, found \"pfifo\""),
        ("pfifo; parent 8001:1 pfifo", "parent 8001:1: pfifo has no classes"),
        ("netem; parent 1:1 pfifo", "parent 1:1: no discipline before it has the handle 1:"),
        ("netem; parent 8001:2 pfifo", "the classes of netem are 8001:1 to 8001:1"),
        ("handle 0: netem", "handle can not be \"0:\": it is a handle such as 1:"),
    ];
    for (spec, want) in cases {
        let err = Tree::parse(spec).expect_err(spec).to_string();
        assert!(err.contains(want), "{spec:?}: {err:?} should say {want:?}");
    }
}

/// No text makes the reader panic, and what it takes it can write. Method: words at random.
#[test]
fn any_words_are_read_or_refused() {
    const WORDS: &[&str] = &[
        "netem",
        "tbf",
        "pfifo",
        "bfifo",
        "prio",
        "sfq",
        "codel",
        "fq",
        "fq_codel",
        "root",
        "handle",
        "1:",
        "parent",
        "1:1",
        ";",
        "limit",
        "delay",
        "10ms",
        "loss",
        "1%",
        "rate",
        "1mbit",
        "burst",
        "10k",
        "latency",
        "seed",
        "99999999999999999999",
        "-5",
        "0",
        "gap",
        "reorder",
        "distribution",
        "normal",
        "é",
        "1e300s",
        ".",
        "NaN%",
        "inf",
        "0x",
        "target",
        "interval",
        "quantum",
        "flows",
        "ecn",
        "bands",
        "priomap",
        "perturb",
        "memory_limit",
        "maxrate",
    ];
    let mut rng = Rng::new(1);
    let mut taken = 0;
    for _ in 0..50_000 {
        let n = rng.below(9) + 1;
        let words: Vec<&str> =
            (0..n).map(|_| WORDS[rng.below(WORDS.len() as u64) as usize]).collect();
        if let Ok(tree) = Tree::parse(&words.join(" ")) {
            let _ = (tree.text(), Qdisc::new(&tree, PLACE, &mut rng));
            taken += 1;
        }
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn statistics_are_what_tc_prints() {
    let mut rig = Rig::new("handle 1: tbf rate 8mbit burst 2000b limit 20k");
    (0..30).for_each(|n| _ = rig.send(1000, 1, n));
    rig.pump();
    let show = Show {
        dev: "eth0".to_owned(),
        kind: rig.sched.qdisc.spec.kind().to_owned(),
        handle: 1,
        parent: None,
        ingress: false,
        options: rig.sched.qdisc.spec.options(),
        stats: rig.sched.qdisc.stats(),
        xstats: Vec::new(),
    };
    assert_eq!(
        show.text(),
        "qdisc tbf 1: dev eth0 root rate 8Mbit burst 2000b lat 18.5ms\n \
         Sent 2000 bytes 2 pkt (dropped 10, overlimits 1 requeues 0) \n backlog 18000b 18p requeues 0\n"
    );
}
