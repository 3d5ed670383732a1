//! What probes cost: nanoseconds of the processor for each datagram that goes through a veth pair, with
//! probes and without, five rounds of each in turn.
//!
//! `unshare -n taskset -c 1 cargo run --release -p linerate-host --example probe_cost`

use std::net::UdpSocket;
use std::process::Command;

use linerate_host::bpf::{Config, Probes, SAMPLE};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 5;
const DATAGRAMS: u32 = 200_000;

fn run(words: &str) {
    let mut words = words.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success());
}

/// What a datagram costs this thread, with the softirqs that run in its place, in ns.
fn cost(socket: &UdpSocket) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let begin = now();
    for _ in 0..DATAGRAMS {
        // One that is lost on a full queue costs as well.
        let _ = socket.send(&[0; 64]);
    }
    (now() - begin) / f64::from(DATAGRAMS)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    assert!(
        !std::path::Path::new("/sys/class/net/p0").exists(),
        "run this in a namespace of its own"
    );
    run("ip link add p0 type veth peer name p1");
    run("ip addr add 10.9.0.1/24 dev p0");
    run("ip link set p0 up");
    run("ip link set p1 up");
    run("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev p0 nud permanent");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    socket.connect("10.9.0.2:9").unwrap();
    cost(&socket);
    let configs = [None, Some(SAMPLE), Some(1)];
    let mut costs = configs.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (config, costs) in configs.iter().zip(&mut costs) {
            let probes =
                config.map(|sample| Probes::begin(Config { sample, netns: None }).unwrap());
            costs.push(cost(&socket));
            drop(probes);
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {load}");
    for (config, costs) in configs.iter().zip(&mut costs) {
        let what = config.map_or("without probes".to_owned(), |n| format!("1 in {n} followed"));
        let middle = median(costs);
        println!("{what:>16}: {middle:.0} ns ({:.0} to {:.0})", costs[0], costs[ROUNDS - 1]);
    }
}
