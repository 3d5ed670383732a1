//! `RTM_GETNEIGH` and `RTM_GETROUTE`: neighbours by state, and routes that drop.
//!
//! Linux: net/core/neighbour.c `neigh_fill_info`, net/ipv4/fib_semantics.c `fib_dump_info`

use std::net::IpAddr;

use super::attr::{DUMP, Request, find, messages, number32, u16_at};
use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// The request's name.
pub(crate) const NEIGH: &str = "netlink/route/RTM_GETNEIGH";
/// The request's name.
pub(super) const ROUTE: &str = "netlink/route/RTM_GETROUTE";

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `sizeof(struct ndmsg)`: family, padding, index, state, flags, type.
const NDMSG: usize = 12;
/// `sizeof(struct rtmsg)`: family, lengths of destination and source, tos, table, protocol, scope,
/// type, flags.
const RTMSG: usize = 12;

/// `NUD_*` from bit 0 on. NOARP and PERMANENT are not resolved: they take no part in it.
const STATES: [&str; 8] =
    ["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "NOARP", "PERMANENT"];

/// Types of routes that drop, by number.
const BAD: [(u8, &str); 3] = [(6, "blackhole"), (7, "unreachable"), (8, "prohibit")];
/// Routes that are told at most.
const BAD_MAX: usize = 256;

const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;

pub(super) fn neigh_request() -> Request {
    Request::new(RTM_GETNEIGH, DUMP, &[0; NDMSG])
}

/// One request for each family and type of route that drops: kernels since 4.20 then look for no other.
/// All families at once would ask those of multicast and MPLS as well, of which any may refuse it.
pub(super) fn route_requests() -> impl Iterator<Item = Request> {
    [libc::AF_INET, libc::AF_INET6].into_iter().flat_map(|family| {
        BAD.iter().map(move |(kind, _)| {
            let mut fixed = [0; RTMSG];
            fixed[0] = family as u8;
            fixed[7] = *kind;
            Request::new(RTM_GETROUTE, DUMP, &fixed)
        })
    })
}

/// Counts the neighbours of an answer by state.
pub fn neighbours(bytes: &[u8], into: &mut Snapshot) {
    for family in ["inet", "inet6"] {
        let mut states = Counters::new(format!("{NEIGH} {family}"));
        STATES.iter().for_each(|state| states.set(state, 0));
        into.neigh_states.insert(family.into(), states);
    }
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWNEIGH) {
        let family = match message.body.first().copied().map(i32::from) {
            Some(libc::AF_INET) => "inet",
            Some(libc::AF_INET6) => "inet6",
            _ => continue,
        };
        let Some(state) = u16_at(message.body, 8) else { continue };
        let Some(name) = STATES.get(state.trailing_zeros() as usize) else { continue };
        if let Some(states) = into.neigh_states.get_mut(family) {
            states.add(name, 1);
        }
    }
}

/// Keeps the routes of an answer that drop.
pub fn routes(bytes: &[u8], into: &mut Snapshot) {
    for message in messages(bytes).filter(|m| m.kind == RTM_NEWROUTE) {
        if into.bad_routes.len() >= BAD_MAX {
            into.note(ROUTE, format!("only the first {BAD_MAX} routes that drop are shown"));
            return;
        }
        if let Some(bad) = bad_route(message.body).filter(|bad| !into.bad_routes.contains(bad)) {
            into.bad_routes.push(bad);
        }
    }
}

fn bad_route(body: &[u8]) -> Option<(String, String)> {
    let (family, len, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    let (_, what) = BAD.iter().find(|(k, _)| *k == kind)?;
    let inside = body.get(RTMSG..)?;
    // Kernels before 4.11 dump the route that IPv6 falls back to, which is in no table.
    if number32(inside, RTA_TABLE) == Some(0) && number32(inside, RTA_PRIORITY) == Some(u32::MAX) {
        return None;
    }
    let to = match find(inside, RTA_DST) {
        Some(value) => format!("{}/{len}", address(family, value)?),
        None => "default".into(),
    };
    Some((to, (*what).into()))
}

/// An address of this family.
pub(super) fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => bytes.first_chunk::<4>().map(|b| IpAddr::from(*b)),
        libc::AF_INET6 => bytes.first_chunk::<16>().map(|b| IpAddr::from(*b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: u8, to: Option<[u8; 4]>, len: u8) -> Vec<u8> {
        let fixed = [2, len, 0, 0, 254, 3, 0, kind, 0, 0, 0, 0];
        let request = Request::new(RTM_NEWROUTE, 0, &fixed).u32(RTA_TABLE, 254);
        to.map_or(request.clone(), |to| request.attr(RTA_DST, &to)).finish(1)
    }

    fn neigh(family: u8, state: u16) -> Vec<u8> {
        let mut fixed = [0; NDMSG];
        fixed[0] = family;
        fixed[4] = 9;
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        Request::new(RTM_NEWNEIGH, 0, &fixed).finish(1)
    }

    #[test]
    fn routes_that_drop_are_told_from_those_that_lead_somewhere() {
        let mut s = Snapshot::default();
        let all = [
            route(1, Some([10, 0, 0, 0]), 8),
            route(6, Some([10, 9, 0, 0]), 16),
            route(7, None, 0),
        ];
        routes(&all.concat(), &mut s);
        let is = [("10.9.0.0/16", "blackhole"), ("default", "unreachable")];
        assert_eq!(s.bad_routes, is.map(|(a, b)| (a.to_owned(), b.to_owned())));
        routes(&all.concat(), &mut s);
        assert_eq!(s.bad_routes.len(), 2, "three dumps of an old kernel are the same routes");
    }

    #[test]
    fn neighbours_are_counted_by_family_and_state() {
        let mut s = Snapshot::default();
        let all =
            [neigh(2, 0x20), neigh(2, 0x20), neigh(2, 2), neigh(10, 4), neigh(7, 2), neigh(2, 0)];
        neighbours(&all.concat(), &mut s);
        let count = |family: &str, state: &str| s.neigh_states[family].get(state);
        assert_eq!(count("inet", "FAILED"), Some(2));
        assert_eq!(count("inet", "REACHABLE"), Some(1));
        assert_eq!(count("inet6", "STALE"), Some(1));
        assert_eq!(count("inet6", "FAILED"), Some(0));
    }
}
