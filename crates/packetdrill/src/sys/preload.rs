//! What packetdrill asks the kernel for although a library is loaded: the TCP_INFO that code in `%{ }%`
//! looks at. Where this library is preloaded as well (`LD_PRELOAD`), it answers for its own files.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::socklen_t;

use crate::wait::Library;

/// The library that is open: packetdrill opens one.
static OPEN: AtomicPtr<Library> = AtomicPtr::new(null_mut());

/// From now on `library` answers.
pub(super) fn opened(library: *mut Library) {
    OPEN.store(library, Ordering::Release);
}

/// From now on it does not.
pub(super) fn closes(library: *mut Library) {
    let _another = OPEN.compare_exchange(library, null_mut(), Ordering::AcqRel, Ordering::Relaxed);
}

/// `getsockopt(2)`: of a file of ours from the library, of others from the kernel.
///
/// # Safety
/// As of the function whose name it has.
// SAFETY: the name is the C library's own on purpose, and the function does for every file of the
// kernel what that one does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let open = OPEN.load(Ordering::Acquire);
    // SAFETY: it is null or the box that `packetdrill_interface_init` made, and packetdrill calls
    // nothing any more once it has freed it.
    if let Some(library) = unsafe { open.as_ref() }
        && library.call(|c| c.files.sock(fd).is_ok())
    {
        // SAFETY: the caller's pointers are passed on as they came.
        return unsafe { super::getsockopt(open.cast(), fd, level, name, value, len) };
    }
    // SAFETY: the system call's own arguments, which the kernel checks.
    unsafe { libc::syscall(libc::SYS_getsockopt, fd, level, name, value, len) as c_int }
}
