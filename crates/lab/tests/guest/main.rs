//! Another kernel with real drivers, in an emulated machine: what veth refuses (rings, coalescing,
//! channels, RSS, interrupts, driver statistics), and an older kernel than the one that runs here.
#![forbid(unsafe_code)]

mod initramfs;
mod qemu;

use qemu::{part, parts};

const E1000E: [&str; 4] =
    ["-netdev", "user,id=n0", "-device", "e1000e,netdev=n0,mac=52:54:00:00:00:01"];

#[test]
fn a_guest_boots_and_names_its_kernel() {
    let Some(parts) = parts("a_guest_boots_and_names_its_kernel") else { return };
    let printed = parts.run("boot", &E1000E, &["e1000e"], "echo '## uname'\nuname -r\nip link\n");
    assert!(part(&printed, "uname").starts_with("6.1."), "{printed}");
    assert!(printed.contains("eth0"), "{printed}");
}
