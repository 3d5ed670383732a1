//! Sysctls, and files below `/sys` and `/proc/irq`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::invalid;
use crate::netlink::socket::Refused;

/// What a setting's value may be long.
const VALUE_MAX: usize = 4096;

pub(super) fn set_sysctl(name: &str, value: &str) -> Result<(), Refused> {
    write(Path::new(&sysctl_path(name)?), value)
}

pub(super) fn get_sysctl(name: &str) -> Result<String, Refused> {
    let value = read(Path::new(&sysctl_path(name)?))?;
    Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

pub(super) fn set(path: &str, sys: &Path, value: &str) -> Result<(), Refused> {
    write(&below(allowed(path)?, sys), value)
}

pub(super) fn get(path: &str, sys: &Path) -> Result<String, Refused> {
    Ok(read(&below(allowed(path)?, sys))?.trim().to_string())
}

/// Where a file of `/sys` is, if that is at `sys`.
fn below(path: &str, sys: &Path) -> PathBuf {
    path.strip_prefix("/sys/").map_or_else(|| PathBuf::from(path), |rest| sys.join(rest))
}

/// `net.ipv4.conf.eth0/100.rp_filter` is `/proc/sys/net/ipv4/conf/eth0.100/rp_filter`.
fn sysctl_path(name: &str) -> Result<String, Refused> {
    const TREES: [&str; 3] = ["net/", "vm/", "kernel/"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@".contains(c);
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = name.chars().map(swap).collect();
    let named = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !TREES.iter().any(|tree| path.starts_with(tree)) || !name.chars().all(plain) || !named {
        return Err(invalid(format!("{name:?} is not a sysctl below net, vm or kernel")));
    }
    Ok(format!("/proc/sys/{path}"))
}

fn allowed(path: &str) -> Result<&str, Refused> {
    const TREES: [&str; 5] =
        ["/sys/class/net/", "/sys/devices/", "/sys/module/", "/sys/kernel/irq/", "/proc/irq/"];
    let plain = path.chars().all(|c| c.is_ascii_graphic());
    let named = path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if !TREES.iter().any(|tree| path.starts_with(tree)) || !plain || !named {
        return Err(invalid(format!(
            "{path:?} is not a file of a device, module or interrupt in /sys or /proc/irq"
        )));
    }
    Ok(path)
}

// Never makes a file, never follows a link at the end, never waits.
fn open(path: &Path, how: &mut OpenOptions) -> Result<File, Refused> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = how.custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(invalid(format!("{} is not a file", path.display())));
    }
    Ok(file)
}

fn write(path: &Path, value: &str) -> Result<(), Refused> {
    if value.len() > VALUE_MAX || value.contains(['\0', '\n']) {
        return Err(invalid("a value is one line of at most 4 KiB"));
    }
    // The kernel takes a value whole, by one write.
    let line = format!("{value}\n");
    let written = open(path, OpenOptions::new().write(true))?.write(line.as_bytes())?;
    if written < value.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL).into());
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Refused> {
    let file = open(path, OpenOptions::new().read(true))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_where_they_should_and_nowhere_else() {
        let path = |name: &str| sysctl_path(name).ok();
        assert_eq!(path("net.core.rmem_max").as_deref(), Some("/proc/sys/net/core/rmem_max"));
        assert_eq!(
            path("net.ipv4.conf.eth0/100.rp_filter").as_deref(),
            Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        for bad in [
            "",
            "net",
            "net.",
            "net..core",
            "net./.x",
            "net.//.//.x",
            "fs.file-max",
            "net.core.a b",
            "net.\0",
            "../x",
            "net.core./../../../etc/passwd",
        ] {
            assert_eq!(path(bad), None, "{bad:?}");
        }
        assert!(allowed("/sys/class/net/eth0/queues/rx-0/rps_cpus").is_ok());
        assert!(allowed("/proc/irq/9/smp_affinity_list").is_ok());
        for bad in [
            "/etc/passwd",
            "/sys/power/state",
            "/sys/class/net/../../power/state",
            "/sys/class/net/eth0//x",
            "/proc/irq/",
            "/proc/irq/9/x y",
            "sys/class/net/a",
        ] {
            assert!(allowed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn values_are_one_line() {
        for bad in ["1\n2", "1\0"] {
            let refused = write(Path::new("/proc/sys/net/core/rmem_max"), bad).unwrap_err();
            assert_eq!(refused.source.kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(get_sysctl("net.ipv4.tcp_rmem").unwrap().split(' ').count(), 3);
        let refused = get_sysctl("net.core.no_such_thing").unwrap_err();
        assert_eq!(refused.source.kind(), io::ErrorKind::NotFound);
        assert!(
            set("/sys/class/net/lo", Path::new("/sys"), "1").is_err(),
            "a directory, by a link"
        );
    }
}
