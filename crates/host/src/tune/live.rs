//! This host's settings, or those of another of its namespaces.

use std::io;
use std::path::Path;

use super::{SetError, Settings};
use crate::change::Change;
use crate::netlink;
use crate::source::Live;

/// In the namespace that the source reads.
fn there<T: Send + 'static>(
    live: &Live,
    change: &Change,
    what: fn(&Change, &Path) -> Result<T, SetError>,
) -> Result<T, SetError> {
    let sent = change.clone();
    // `/sys` shows the devices of the namespace in which it was mounted, and names are not unique.
    let sys = live.sys().map_err(|source| SetError { what: change.command(), source });
    let sys = match change {
        Change::File { .. } => sys?,
        _ => sys.unwrap_or_default(),
    };
    let done = live.there(move || Ok(what(&sent, &sys)));
    done.unwrap_or_else(|source: io::Error| Err(SetError { what: change.command(), source }))
}

impl Settings for Live {
    fn get(&mut self, like: &Change) -> Result<Change, SetError> {
        there(self, like, netlink::read_back_in)
    }

    fn set(&mut self, change: &Change) -> Result<(), SetError> {
        there(self, change, netlink::apply_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_said() {
        let sysctl = |name: &str| Change::Sysctl { name: name.into(), value: String::new() };
        let now = Live::new().get(&sysctl("net.ipv4.tcp_rmem")).unwrap();
        let Change::Sysctl { value, .. } = now else { unreachable!() };
        assert_eq!(value.split_whitespace().count(), 3, "{value}");
        let e = Live::new().get(&sysctl("net.core.none")).unwrap_err();
        assert!(e.to_string().contains("no such setting"), "{e}");
    }

    #[test]
    fn settings_of_other_things_are_refused() {
        for path in ["/etc/passwd", "/sys/class/net/../../../etc/passwd", "/proc/sysrq-trigger"] {
            let at = Change::File { path: path.into(), value: "1".into() };
            assert!(Live::new().set(&at).is_err(), "{path}");
        }
    }
}
