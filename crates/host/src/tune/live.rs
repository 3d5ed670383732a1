//! This host's settings.

use std::io;

use super::{SetError, Settings};
use crate::change::Change;
use crate::source::{Live, Source};

/// The name by which a [`Source`] knows the file of a setting, if it is one in a file.
fn file(change: &Change) -> Result<String, SetError> {
    let invalid = || SetError {
        what: change.command(),
        source: io::Error::new(
            io::ErrorKind::InvalidInput,
            "that is no setting of the network path",
        ),
    };
    match change {
        Change::Sysctl { name, .. } => {
            let fits = |c: char| c.is_ascii_alphanumeric() || "._-/@:".contains(c);
            let path = sysctl_path(name);
            let is_net = path.starts_with("net/") || path.starts_with("vm/");
            if !name.chars().all(fits)
                || path.split('/').any(|p| p.is_empty() || p == "..")
                || !is_net
            {
                return Err(invalid());
            }
            Ok(format!("proc/sys/{path}"))
        }
        Change::File { path, .. } => {
            let below =
                ["/sys/class/net/", "/proc/irq/", "/sys/module/nf_conntrack/", "/sys/devices/"];
            if !below.iter().any(|b| path.starts_with(b)) || path.split('/').any(|p| p == "..") {
                return Err(invalid());
            }
            Ok(path.trim_start_matches('/').to_owned())
        }
        _ => Err(invalid()),
    }
}

/// `net.ipv4.conf.eth0/1.rp_filter`: a slash stands for a dot in the name of a device.
fn sysctl_path(name: &str) -> String {
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    name.chars().map(swap).collect()
}

impl Settings for Live {
    fn get(&mut self, like: &Change) -> Result<Change, SetError> {
        let failed = |source| SetError { what: like.command(), source };
        match like {
            Change::Sysctl { .. } | Change::File { .. } => {
                let bytes = self.read(&file(like)?).map_err(failed)?;
                let text = String::from_utf8_lossy(&bytes);
                let now = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let mut change = like.clone();
                if let Change::Sysctl { value, .. } | Change::File { value, .. } = &mut change {
                    *value = now;
                }
                Ok(change)
            }
            _ => Err(failed(io::ErrorKind::Unsupported.into())),
        }
    }

    fn set(&mut self, change: &Change) -> Result<(), SetError> {
        let failed = |source| SetError { what: change.command(), source };
        match change {
            Change::Sysctl { value, .. } | Change::File { value, .. } => {
                self.write(&file(change)?, value.as_bytes()).map_err(failed)
            }
            _ => Err(failed(io::ErrorKind::Unsupported.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_other_things_are_refused() {
        let sysctl = |name: &str| Change::Sysctl { name: name.into(), value: "1".into() };
        assert_eq!(file(&sysctl("net.core.rmem_max")).unwrap(), "proc/sys/net/core/rmem_max");
        assert_eq!(
            file(&sysctl("net.ipv4.conf.eth0/1.rp_filter")).unwrap(),
            "proc/sys/net/ipv4/conf/eth0.1/rp_filter"
        );
        for bad in ["kernel.core_pattern", "net..x", "net.core.\n", "", "net.ipv4.conf.//.x"] {
            assert!(file(&sysctl(bad)).is_err(), "{bad}");
        }
        let at = |path: &str| Change::File { path: path.into(), value: "1".into() };
        assert!(file(&at("/sys/class/net/eth0/queues/rx-0/rps_cpus")).is_ok());
        for bad in ["/etc/passwd", "/sys/class/net/../../../etc/passwd", "/proc/sysrq-trigger"] {
            assert!(file(&at(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_said() {
        let like = Change::Sysctl { name: "net.ipv4.tcp_rmem".into(), value: String::new() };
        let Change::Sysctl { value, .. } = Live::new().get(&like).unwrap() else { unreachable!() };
        assert_eq!(value.split(' ').count(), 3, "{value}");
        let like = Change::Sysctl { name: "net.core.none".into(), value: String::new() };
        let e = Live::new().get(&like).unwrap_err();
        assert!(e.to_string().contains("no such setting"), "{e}");
    }
}
