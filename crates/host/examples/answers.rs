//! Writes the kernel's answers to netlink requests and ioctls into files of their names, as the data of
//! `tests/netlink_bytes.rs` were made: `answers DIRECTORY [DEVICE...]`.
//!
//! What is refused is named on standard error and left out.

use std::path::Path;
use std::{env, fs, io};

use linerate_host::netlink::Live;

const NAMES: [&str; 32] = [
    "netlink/route/RTM_GETLINK",
    "netlink/route/RTM_GETQDISC",
    "netlink/route/RTM_GETTCLASS",
    "netlink/route/RTM_GETTFILTER",
    "netlink/ctnetlink/stats-cpu",
    "netlink/ctnetlink/stats",
    "netlink/route/RTM_GETNEIGH",
    "netlink/route/RTM_GETROUTE",
    "netlink/sock_diag/tcp-listen",
    "netlink/sock_diag/tcp6-listen",
    "netlink/sock_diag/udp",
    "netlink/sock_diag/udp6",
    "netlink/sock_diag/tcp",
    "netlink/sock_diag/tcp6",
    "netlink/sock_diag/tcp-info",
    "netlink/sock_diag/packet",
    "netlink/sock_diag/xdp",
    "netlink/sock_diag/owners",
    "netlink/ethtool/STRSET_GET",
    "netlink/ethtool/FEATURES_GET",
    "netlink/ethtool/RINGS_GET",
    "netlink/ethtool/CHANNELS_GET",
    "netlink/ethtool/COALESCE_GET",
    "netlink/ethtool/PAUSE_GET",
    "netlink/ethtool/FEC_GET",
    "netlink/ethtool/STATS_GET",
    "netlink/netdev/dev-get",
    "netlink/netdev/napi-get",
    "netlink/netdev/queue-get",
    "netlink/netdev/qstats-get",
    "netlink/netdev/page-pool-get",
    "netlink/netdev/page-pool-stats-get",
];

/// Of each device.
const IOCTLS: [&str; 9] =
    ["stats", "features", "rxfh", "rxclass", "drvinfo", "rings", "channels", "coalesce", "pause"];

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((to, devs)) = args.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "answers DIRECTORY [DEVICE...]"));
    };
    let ioctls = devs.iter().flat_map(|d| IOCTLS.map(|what| format!("ioctl/ethtool/{what}/{d}")));
    let mut live = Live::new();
    for name in NAMES.iter().map(|n| (*n).to_string()).chain(ioctls) {
        match live.read(&name) {
            Ok(bytes) if bytes.is_empty() => eprintln!("{name}: empty"),
            Ok(bytes) => {
                let path = Path::new(to).join(&name);
                fs::create_dir_all(path.parent().unwrap_or(Path::new(to)))?;
                fs::write(path, bytes)?;
            }
            Err(e) => eprintln!("{name}: {e}"),
        }
    }
    Ok(())
}
