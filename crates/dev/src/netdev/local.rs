//! What the kernel would do with packets for an address that is to be ours.
//!
//! A packet socket only sees a copy: the kernel receives the packet as well. It answers for
//! addresses of its own (a TCP segment for a port nobody listens on there gets a RST), and forwards
//! what is for others if it is a router.

use super::netlink::{NLM_F_DUMP, Request, attr};
use super::{IFA_ADDRESS, IFA_LOCAL, Netdev, NetdevError, family};
use std::fs;
use std::net::IpAddr;

const RTM_GETROUTE: u16 = 26;
/// Where `rtm_type` lies in `struct rtmsg`.
const RTM_TYPE: usize = 7;

/// What the kernel does with packets for an address that come in by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// It drops them without a word: nothing has to be done.
    Foreign,
    /// It forwards them, or answers ARP or ND for the address as a proxy.
    Forwarded,
    /// The address is its own: it answers.
    Local,
}

impl Netdev {
    /// Whether the kernel takes packets for `addr` as its own.
    ///
    /// # Errors
    /// Those of rtnetlink; no route to the address is no error.
    pub fn is_local(&mut self, addr: IpAddr) -> Result<bool, NetdevError> {
        // An IPv6 address has its route a moment later than its interface has it.
        if self.owner(addr)?.is_some() {
            return Ok(true);
        }
        let (family, bytes) = family(addr);
        let fixed = [family, bytes.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let request = Request::new(RTM_GETROUTE, 0, &fixed).attr(libc::RTA_DST, &bytes);
        match self.0.run(request, || format!("ask for the route to {addr}")) {
            Ok(answer) => {
                Ok(answer.is_some_and(|a| a.body.get(RTM_TYPE) == Some(&libc::RTN_LOCAL)))
            }
            Err(err) if matches!(err.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                Ok(false)
            }
            // An unreachable, prohibited or blackhole route.
            Err(err) if matches!(err.errno(), Some(libc::EACCES | libc::EINVAL)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Whether the interface `index` has `addr`.
    ///
    /// # Errors
    /// Those of rtnetlink.
    pub fn has_addr(&mut self, index: u32, addr: IpAddr) -> Result<bool, NetdevError> {
        Ok(self.owners(addr)?.contains(&index))
    }

    /// The interface that has `addr`; the first of several.
    ///
    /// # Errors
    /// Those of rtnetlink.
    pub fn owner(&mut self, addr: IpAddr) -> Result<Option<u32>, NetdevError> {
        Ok(self.owners(addr)?.first().copied())
    }

    fn owners(&mut self, addr: IpAddr) -> Result<Vec<u32>, NetdevError> {
        const RTM_GETADDR: u16 = 22;
        const IFADDRMSG: usize = 8;
        let (family, bytes) = family(addr);
        let request = Request::new(RTM_GETADDR, NLM_F_DUMP, &[family, 0, 0, 0, 0, 0, 0, 0]);
        let all = self.0.dump(request, || "list the addresses of the interfaces".to_owned())?;
        let owner = |body: &[u8]| {
            let attrs = body.get(IFADDRMSG..)?;
            // IPv6 has no IFA_LOCAL unless the address has a peer.
            let own = attr(attrs, IFA_LOCAL).or_else(|| attr(attrs, IFA_ADDRESS))?;
            let index = body.get(4..)?.first_chunk()?;
            (own == bytes).then(|| u32::from_ne_bytes(*index))
        };
        Ok(all.iter().filter_map(|answer| owner(&answer.body)).collect())
    }

    /// What the kernel does with packets for `addr` that come in by the interface `ifname` of the
    /// calling thread's network namespace.
    ///
    /// # Errors
    /// Those of rtnetlink.
    pub fn exposure(&mut self, ifname: &str, addr: IpAddr) -> Result<Exposure, NetdevError> {
        if self.is_local(addr)? {
            return Ok(Exposure::Local);
        }
        let on = |path: &str| {
            let file = format!("/proc/sys/net/{path}");
            fs::read_to_string(file).is_ok_and(|text| text.trim() != "0")
        };
        let (version, proxy) =
            if addr.is_ipv4() { ("ipv4", "proxy_arp") } else { ("ipv6", "proxy_ndp") };
        let of = |what: &str| {
            on(&format!("{version}/conf/{ifname}/{what}"))
                || on(&format!("{version}/conf/all/{what}"))
        };
        // For IPv4 `all` is what each interface begins with; its own value is what counts.
        let forwards = on(&format!("{version}/conf/{ifname}/forwarding"));
        Ok(if forwards || of(proxy) { Exposure::Forwarded } else { Exposure::Foreign })
    }
}
