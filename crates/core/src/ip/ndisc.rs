//! Neighbour discovery (RFC 4861): solicitations and advertisements.
use std::net::Ipv6Addr;

use crate::shard::Net;
use crate::wire::Mac;

/// Asks who has `target`.
pub(crate) fn ndisc_solicit(_net: &mut Net, _dev: u8, _target: Ipv6Addr, _known: Option<Mac>) {}
