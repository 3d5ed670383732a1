//! Faults that need a card: a ring that overflows, interrupts on the wrong node.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::qemu::{Guest, part, parts};

/// The guest's card.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// A frame for the card, of a protocol that nobody speaks: it costs no more than to be received.
fn frame() -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x08, 0x00, 0x45, 0, 0, 46]);
    // UDP from 10.0.2.9 to 10.0.2.15, port 9, with the header's checksum left out: IP drops it.
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 9, 10, 0, 2, 15, 0, 9, 0, 9, 0, 26, 0, 0]);
    frame.resize(60, 7);
    frame
}

/// A free UDP port of this host.
fn port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Does `guest` while bursts of this many frames come to its card, with a pause between them.
fn under_bursts<R: Send>(to: u16, burst: usize, guest: impl FnOnce() -> R + Send) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(guest));
            done.store(true, Ordering::Relaxed);
            result
        });
        let (socket, frame) = (UdpSocket::bind("127.0.0.1:0").unwrap(), frame());
        while !done.load(Ordering::Relaxed) {
            for _ in 0..burst {
                // Nobody listens before the guest is there.
                let _ = socket.send_to(&frame, ("127.0.0.1", to));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        match inside.join() {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) | Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A ring that is too small for the bursts that come: the doctor says so, and how large it has to be.
#[test]
fn a_ring_that_overflows_is_named_and_made_larger() {
    let Some(parts) = parts("a_ring_that_overflows_is_named_and_made_larger") else { return };
    let (ours, theirs) = (port(), port());
    let netdev = format!("socket,id=n0,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{theirs}");
    let devices = ["-netdev", &netdev, "-device", "vmxnet3,netdev=n0,mac=52:54:00:00:00:01"];
    let guest = Guest { name: "overrun", devices: &devices, drivers: &["vmxnet3"], tools: &[] };
    let script = "\
ethtool -G eth0 rx 32
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
sleep 2
echo '## lro'; ethtool -k eth0 | grep large-receive
echo '## ring'; linerate show --host rings | grep eth0
echo '## doctor'; linerate doctor --for 6s --json 2> /dev/null
echo '## oob'; ethtool -S eth0 | grep OOB
ethtool -G eth0 rx 4096
sleep 2
echo '## after'; linerate doctor --for 6s --json 2> /dev/null
echo '## oob-after'; ethtool -S eth0 | grep OOB
";
    let printed = under_bursts(theirs, 400, || parts.run(&guest, script));
    assert!(part(&printed, "doctor").contains("\"id\": \"R01\""), "{printed}");
    assert!(part(&printed, "doctor").contains("pkts rx OOB"), "{printed}");
    assert!(!part(&printed, "after").contains("\"id\": \"R01\""), "{printed}");
}

/// Two nodes; the card is on the second, its interrupt on the first.
#[test]
fn interrupts_on_another_node_than_the_cards_are_named_and_moved() {
    const TEST: &str = "interrupts_on_another_node_than_the_cards_are_named_and_moved";
    let Some(parts) = parts(TEST) else { return };
    let (ours, theirs) = (port(), port());
    let netdev = format!("socket,id=n0,udp=127.0.0.1:{ours},localaddr=127.0.0.1:{theirs}");
    let devices = [
        "-machine",
        "q35",
        "-object",
        "memory-backend-ram,id=m0,size=256M",
        "-object",
        "memory-backend-ram,id=m1,size=256M",
        "-numa",
        "node,nodeid=0,cpus=0,memdev=m0",
        "-numa",
        "node,nodeid=1,cpus=1,memdev=m1",
        "-device",
        "pxb-pcie,id=far,bus_nr=128,numa_node=1,bus=pcie.0",
        "-device",
        "pcie-root-port,id=rp0,bus=far,chassis=1",
        "-netdev",
        &netdev,
        "-device",
        "e1000e,netdev=n0,mac=52:54:00:00:00:01,bus=rp0",
    ];
    let guest = Guest { name: "nodes", devices: &devices, drivers: &["e1000e"], tools: &[] };
    let script = "\
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
sleep 2
echo '## node'; cat /sys/class/net/eth0/device/numa_node
for irq in $(ls /sys/class/net/eth0/device/msi_irqs); do echo 0 > /proc/irq/$irq/smp_affinity_list; done
echo '## doctor'; linerate doctor --for 4s --limit busy_pps=10 --json 2> /dev/null
for irq in $(ls /sys/class/net/eth0/device/msi_irqs); do echo 1 > /proc/irq/$irq/smp_affinity_list; done
echo '## after'; linerate doctor --for 4s --limit busy_pps=10 --json 2> /dev/null
";
    let printed = under_bursts(theirs, 30, || parts.run(&guest, script));
    assert_eq!(part(&printed, "node").trim(), "1", "{printed}");
    assert!(part(&printed, "doctor").contains("\"id\": \"R03\""), "{printed}");
    assert!(part(&printed, "doctor").contains("echo 1 > /proc/irq/"), "{printed}");
    assert!(!part(&printed, "after").contains("\"id\": \"R03\""), "{printed}");
}
