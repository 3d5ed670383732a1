//! The stack's routes and neighbours, for programs that ask (`bpf_fib_lookup`, `bpf_check_mtu`).
//!
//! Linux: net/core/filter.c `bpf_ipv4_fib_lookup`, `bpf_ipv6_fib_lookup`, `bpf_fib_set_fwd_params`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use linerate_bpf::vm::{FIB_PARAMS, Fib};
use linerate_core::ip::fib::RouteKind;
use linerate_core::link::L2;
use linerate_core::link::neigh::Nud;
use linerate_core::shard::Net;

/// `BPF_FIB_LKUP_RET_*`.
mod ret {
    pub const SUCCESS: i64 = 0;
    pub const BLACKHOLE: i64 = 1;
    pub const UNREACHABLE: i64 = 2;
    pub const PROHIBIT: i64 = 3;
    pub const NOT_FWDED: i64 = 4;
    pub const FWD_DISABLED: i64 = 5;
    pub const NO_NEIGH: i64 = 7;
    pub const FRAG_NEEDED: i64 = 8;
    pub const NO_SRC_ADDR: i64 = 9;
}

const OUTPUT: u32 = 2;
const SKIP_NEIGH: u32 = 4;
const TBID: u32 = 8;
const SRC: u32 = 16;
/// `RT_TABLE_MAIN`; there is no other table.
const MAIN: u32 = 254;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
// Where the fields of `struct bpf_fib_lookup` lie.
const TOT_LEN: usize = 6;
const IFINDEX: usize = 8;
const METRIC: usize = 12;
const SOURCE: usize = 16;
const DESTINATION: usize = 32;
const TABLE: usize = 48;
const SMAC: usize = 52;
const DMAC: usize = 58;

type Params = [u8; FIB_PARAMS];

fn field<const N: usize>(params: &Params, at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&params[at..at + N]);
    out
}

fn put(params: &mut Params, at: usize, bytes: &[u8]) {
    params[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_addr(params: &mut Params, at: usize, addr: IpAddr) {
    match addr {
        IpAddr::V4(a) => put(params, at, &a.octets()),
        IpAddr::V6(a) => put(params, at, &a.octets()),
    }
}

/// Addresses that never lead beyond their link (`rt6_need_strict`).
fn is_strict(addr: IpAddr) -> bool {
    let strict = |a: Ipv6Addr| a.is_multicast() || a.is_loopback() || a.is_unicast_link_local();
    matches!(addr, IpAddr::V6(a) if strict(a))
}

/// The routes of a stack.
pub(super) struct Routes<'a>(pub &'a Net);

impl Routes<'_> {
    fn device(&self, ifindex: u32) -> Option<u8> {
        let dev = u8::try_from(ifindex.checked_sub(1)?).ok()?;
        (usize::from(dev) < self.0.ifaces.len()).then_some(dev)
    }
}

impl Fib for Routes<'_> {
    fn lookup(&mut self, params: &mut Params, flags: u32) -> i64 {
        let net = self.0;
        let (v4, forwards) = match params[0] {
            AF_INET => (true, net.knobs.ip_forward),
            AF_INET6 => (false, net.knobs.ip6_forward),
            _ => return -i64::from(libc::EAFNOSUPPORT),
        };
        let addr = |params: &Params, at| -> IpAddr {
            if v4 {
                Ipv4Addr::from(field::<4>(params, at)).into()
            } else {
                Ipv6Addr::from(field::<16>(params, at)).into()
            }
        };
        let (src, dst) = (addr(params, SOURCE), addr(params, DESTINATION));
        if is_strict(src) || is_strict(dst) {
            return ret::NOT_FWDED;
        }
        let Some(from) = self.device(u32::from_ne_bytes(field(params, IFINDEX))) else {
            return -i64::from(libc::ENODEV);
        };
        if !forwards {
            return ret::FWD_DISABLED;
        }
        if flags & TBID != 0 && !matches!(u32::from_ne_bytes(field(params, TABLE)), 0 | MAIN) {
            return ret::NOT_FWDED;
        }
        let Some(route) = net.fib.lookup(dst) else { return ret::NOT_FWDED };
        match route.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => return ret::BLACKHOLE,
            RouteKind::Unreachable => return ret::UNREACHABLE,
            RouteKind::Prohibit => return ret::PROHIBIT,
            RouteKind::Local | RouteKind::Broadcast => return ret::NOT_FWDED,
        }
        let Some(way) = net.route_out(dst) else { return ret::NOT_FWDED };
        let Some(iface) = net.ifaces.get(usize::from(way.dev)) else { return ret::NOT_FWDED };
        if flags & OUTPUT != 0 && way.dev != from {
            return ret::NOT_FWDED;
        }
        let mtu = u16::try_from(way.mtu).unwrap_or(u16::MAX).to_ne_bytes();
        if u32::from(u16::from_ne_bytes(field(params, TOT_LEN))) > way.mtu {
            put(params, TOT_LEN, &mtu);
            return ret::FRAG_NEEDED;
        }
        put(params, METRIC, &[0; 4]);
        put(params, IFINDEX, &(u32::from(way.dev) + 1).to_ne_bytes());
        put_addr(params, DESTINATION, way.nexthop);
        if flags & SRC != 0 {
            match way.src {
                Some(src) => put_addr(params, SOURCE, src),
                None => return ret::NO_SRC_ADDR,
            }
        }
        if flags & SKIP_NEIGH == 0 {
            // What a device of bare packets sends has no addresses of the link (`NUD_NOARP`).
            let mut macs = [iface.mac.0, [0; 6]];
            if iface.l2 == L2::Ethernet {
                let found = net.neigh.get(way.dev, way.nexthop);
                let known = found.filter(|n| !matches!(n.state(), Nud::Incomplete | Nud::Failed));
                let Some(neigh) = known else { return ret::NO_NEIGH };
                macs[1] = neigh.mac().0;
            }
            put(params, SMAC, &macs[0]);
            put(params, DMAC, &macs[1]);
        }
        put(params, TABLE, &[0; 4]);
        put(params, TOT_LEN, &mtu);
        ret::SUCCESS
    }

    fn mtu(&self, ifindex: u32) -> Option<u32> {
        let dev = self.device(ifindex)?;
        self.0.ifaces.get(usize::from(dev)).map(|iface| iface.mtu)
    }
}
