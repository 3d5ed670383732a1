//! `bpf_trace_printk`: what its formats come to.
//!
//! Linux: kernel/bpf/helpers.c `bpf_bprintf_prepare`

use std::fmt::Write;

/// Bytes of a format at the most; the kernel's lines have 1024.
pub(super) const FORMAT_MAX: u64 = 1024;
/// Bytes of a string that `%s` prints.
const STRING_MAX: usize = 512;

/// The line that a format and its arguments make; `None` if the kernel would not take the format.
/// `read` reads memory of the program.
pub(super) fn format(
    format: &[u8],
    arguments: [u64; 3],
    mut read: impl FnMut(u64, &mut [u8]) -> bool,
) -> Option<String> {
    let end = format.iter().position(|&b| b == 0)?;
    let text = format.get(..end)?;
    if !text.iter().all(|b| (0x20..0x7f).contains(b) || b.is_ascii_whitespace()) {
        return None;
    }
    let mut arguments = arguments.into_iter();
    let mut out = String::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte.into());
            continue;
        }
        let mut left = false;
        let mut zero = false;
        while let Some(flag) = bytes.next_if(|b| b"-0+# ".contains(b)) {
            left |= flag == b'-';
            zero |= flag == b'0';
        }
        let mut width = 0usize;
        while let Some(digit) = bytes.next_if(u8::is_ascii_digit) {
            width = (width * 10 + usize::from(digit - b'0')).min(64);
        }
        let mut longs = 0;
        while bytes.next_if_eq(&b'l').is_some() {
            longs += 1;
        }
        let conversion = bytes.next()?;
        if conversion == b'%' {
            out.push('%');
            continue;
        }
        let value = arguments.next()?;
        let cut = if longs == 0 { u64::from(value as u32) } else { value };
        let text = match conversion {
            b'd' | b'i' if longs == 0 => (value as i32).to_string(),
            b'd' | b'i' => (value as i64).to_string(),
            b'u' => cut.to_string(),
            b'x' => format!("{cut:x}"),
            b'X' => format!("{cut:X}"),
            b'c' => char::from(value as u8).to_string(),
            b'p' => {
                // What follows chooses a form for the kernel's own structures.
                while bytes.next_if(u8::is_ascii_alphanumeric).is_some() {}
                format!("{value:016x}")
            }
            b's' => string(value, &mut read),
            _ => return None,
        };
        let written = match (left, zero) {
            (true, _) => write!(out, "{text:<width$}"),
            (_, true) => write!(out, "{text:0>width$}"),
            _ => write!(out, "{text:>width$}"),
        };
        written.ok()?;
    }
    Some(out.trim_end_matches('\n').to_owned())
}

fn string(addr: u64, read: &mut impl FnMut(u64, &mut [u8]) -> bool) -> String {
    let mut out = Vec::new();
    let mut byte = [0];
    while out.len() < STRING_MAX && read(addr.wrapping_add(out.len() as u64), &mut byte) {
        if byte == [0] {
            break;
        }
        out.push(byte[0]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::format;

    fn say(text: &str, arguments: [u64; 3]) -> Option<String> {
        let text = format!("{text}\0");
        format(text.as_bytes(), arguments, |addr, out| {
            out.copy_from_slice(&[*b"eth\0".get(addr as usize).unwrap_or(&0)]);
            true
        })
    }

    #[test]
    fn formats_are_those_of_the_kernel() {
        let minus = -3i64 as u64;
        assert_eq!(say("a %d b %u%%", [minus, minus, 0]).as_deref(), Some("a -3 b 4294967293%"));
        assert_eq!(say("%lld %llu %lx", [minus, 9, 255]).as_deref(), Some("-3 9 ff"));
        assert_eq!(say("[%4d|%-4x|%04X]\n", [7, 10, 10]).as_deref(), Some("[   7|a   |000A]"));
        assert_eq!(say("%s %c", [1, 65, 0]).as_deref(), Some("th A"));
        assert_eq!(say("%d %d %d %d", [0; 3]), None, "there are three arguments");
        assert_eq!(say("%f", [0; 3]), None);
        assert_eq!(say("%", [0; 3]), None);
        assert_eq!(format(b"no end", [0; 3], |_, _| true), None);
    }
}
