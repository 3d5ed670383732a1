//! `ip link set DEV NAME VALUE`.

use super::{device, invalid, unsupported};
use crate::netlink::attr::Request;
use crate::netlink::link::{IFINFOMSG, RTM_GETLINK, parameter, parameter_attr};
use crate::netlink::socket::{ASK, Refused, Socket};

const RTM_SETLINK: u16 = 19;
const IFLA_IFNAME: u16 = 3;

pub(super) fn set(dev: &str, name: &str, value: &str) -> Result<(), Refused> {
    let (dev, attr) = (device(dev)?, known(name)?);
    let value: u32 = value
        .trim()
        .parse()
        .map_err(|_| invalid(format!("{value:?} is not a number below 2^32, as {name} is")))?;
    let request = Request::new(RTM_SETLINK, ASK, &[0; IFINFOMSG]).text(IFLA_IFNAME, dev);
    Socket::open(None)?.ask(request.u32(attr, value))?;
    Ok(())
}

pub(super) fn get(dev: &str, name: &str) -> Result<String, Refused> {
    known(name)?;
    parameter(&ask(dev)?, name)
        .map(|value| value.to_string())
        .ok_or_else(|| unsupported(format!("this kernel does not tell {name}")))
}

/// The kernel's answer about one device.
pub(super) fn ask(dev: &str) -> Result<Vec<u8>, Refused> {
    let request = Request::new(RTM_GETLINK, ASK, &[0; IFINFOMSG]).text(IFLA_IFNAME, device(dev)?);
    Socket::open(None)?.ask(request)
}

fn known(name: &str) -> Result<u16, Refused> {
    parameter_attr(name).ok_or_else(|| invalid(format!("{name:?} is not a parameter known here")))
}
