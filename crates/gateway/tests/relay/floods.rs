//! What a program does that means no good: nothing may fall over, hang or grow without bound.

use crate::Outcome;
use crate::server::ECHO;
use crate::world::{NOBODY, SERVER, World};

/// Kibibytes that the gateway's process may hold at most in these tests: pools and tables at their
/// limits, which are far below what an unbounded one would need.
const PEAK_KIB: u64 = 600 << 10;

pub fn udp_endpoints(world: &World) -> Outcome {
    let to = format!("{SERVER}:{ECHO}");
    let ran = world.client(&["--udp-endpoints", "64"], &["udp-flood", &to, "5000"]);
    assert_eq!(ran.good(), "last");
    assert!(ran.count("endpoints") <= 64);
    // How much of the flood comes through depends on the machine; what does has to make room.
    assert!(ran.count("UdpEvicted") > 0);
    assert_eq!(ran.count("UdpEndpoints"), ran.count("UdpEvicted") + ran.count("endpoints"));
    assert!(ran.count("peak_kib") < PEAK_KIB);
    Ok(())
}

pub fn syns(world: &World) -> Outcome {
    let to = format!("{NOBODY}:80,{SERVER}:{ECHO}");
    let ran = world.client(&["--pending", "100"], &["syn-flood", &to, "1000"]);
    assert_eq!(ran.good(), "1000 alive");
    assert!(ran.count("TcpPendingFull") > 0);
    assert!(ran.count("peak_kib") < PEAK_KIB);
    Ok(())
}

pub fn flows(world: &World) -> Outcome {
    let to = format!("{SERVER}:{ECHO}");
    let ran = world.client(&[], &["churn", &to, "2000"]);
    assert_eq!(ran.good(), "done");
    assert_eq!(ran.count("TcpOpened"), 2000);
    assert_eq!(ran.count("flows"), 0);
    Ok(())
}
