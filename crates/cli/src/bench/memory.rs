//! What the forwarding processes take of memory.

use std::fs;
use std::io;

/// Proportional set size of the forwarding process and all it started, except the program itself,
/// bytes. Where the kernel does not show it for a process (not dumpable, and we are not root), its
/// resident set.
///
/// # Errors
/// That the process is gone.
pub fn memory_bytes(forwarder: u32) -> io::Result<u64> {
    let mut total = resident_bytes(forwarder)?;
    let mut parents = vec![forwarder];
    while let Some(parent) = parents.pop() {
        for (pid, _) in processes().into_iter().filter(|&(_, ppid)| ppid == parent) {
            if !is_program(pid) {
                parents.push(pid);
                total += resident_bytes(pid).unwrap_or(0);
            }
        }
    }
    Ok(total)
}

fn is_program(pid: u32) -> bool {
    let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    args.split(|&b| b == 0).skip(1).take(2).eq([&b"__traffic"[..], b"program"])
}

/// Every process with its parent.
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some((pid, u32::try_from(field(&status, "PPid:")?).ok()?))
    })
    .collect()
}

fn resident_bytes(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    if let Some(kib) = field(&rollup, "Pss:") {
        return Ok(kib * 1024);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&status, "VmRSS:").unwrap_or(0) * 1024)
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{field, memory_bytes};

    #[test]
    fn reads_fields_and_own_memory() {
        assert_eq!(field("Name:\tx\nPPid:\t42\n", "PPid:"), Some(42));
        assert_eq!(field("Name:\tx\n", "PPid:"), None);
        let own = memory_bytes(std::process::id()).expect("this process exists");
        assert!(own > 64 * 1024, "{own}");
    }
}
