//! Binding a thread to a processor.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// The calling thread runs on `cpu` alone from now on.
///
/// # Errors
/// `EINVAL` if there is no such processor, or if this process may not use it.
pub(super) fn to_cpu(cpu: usize) -> io::Result<()> {
    let refused = |why: &str| {
        let text = format!("processor {cpu} {why}: choose one of {:?}", allowed());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused("has a number that no processor has"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|_| refused("is not there or not allowed"))
}

/// The processors that the calling thread may run on.
pub(super) fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}
