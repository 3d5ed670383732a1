//! Completions of zero-copy sends as C has them (MSG_ZEROCOPY; Linux: Documentation/networking/msg_zerocopy.rst).

use linerate_core::tcp::ZerocopyDone;

/// Numbers of the kernel that libc does not have.
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;

/// A completion as a `struct sock_extended_err`.
pub(crate) fn extended_err(done: ZerocopyDone) -> Vec<u8> {
    let code = if done.copied { SO_EE_CODE_ZEROCOPY_COPIED } else { 0 };
    let mut err = Vec::with_capacity(16);
    err.extend(0_u32.to_ne_bytes());
    err.extend([SO_EE_ORIGIN_ZEROCOPY, 0, code, 0]);
    err.extend(done.first.to_ne_bytes());
    err.extend(done.last.to_ne_bytes());
    err
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_laid_out_as_the_kernel_has_it() {
        let err = extended_err(ZerocopyDone { first: 2, last: 7, copied: true });
        assert_eq!(err[..8], [0, 0, 0, 0, 5, 0, 1, 0]);
        assert_eq!((&err[8..12], &err[12..]), (&2_u32.to_ne_bytes()[..], &7_u32.to_ne_bytes()[..]));
        assert_eq!(extended_err(ZerocopyDone { first: 0, last: 0, copied: false })[6], 0);
    }
}
