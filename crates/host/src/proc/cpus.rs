//! Sets of processors as the kernel writes them: a list (`0-3,8`) or a mask (`ff,ffffffff`).
//!
//! Linux: lib/vsprintf.c `bitmap_list_string`, `bitmap_string`

use super::CPUS_MAX;

/// A list, as `smp_affinity_list`, `cpulist` and `isolcpus` have it. `None` if it is not one.
///
/// The empty list is one. Words that are no numbers (`isolcpus=managed_irq,domain,2-3`) are left out.
#[must_use]
pub fn list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        if part.is_empty() || part.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        // `8-15:2/4` is the first two of each four.
        let (range, pick) = part.split_once(':').map_or((part, None), |(r, p)| (r, Some(p)));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        let (used, group) = match pick.map(|p| p.split_once('/')) {
            None => (1, 1),
            Some(pick) => {
                let (used, group) = pick?;
                (used.parse().ok()?, group.parse().ok().filter(|g| *g > 0)?)
            }
        };
        cpus.extend((first..=last).filter(|cpu| (cpu - first) % group < used));
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// A mask, as `rps_cpus` and `xps_cpus` have it: hexadecimal words of 32 bits, the highest first.
/// `None` if it is not one.
#[must_use]
pub fn mask(text: &str) -> Option<Vec<u32>> {
    if text.is_empty() {
        return None;
    }
    let mut cpus = Vec::new();
    for (word, from) in text.split(',').rev().zip((0..CPUS_MAX).step_by(32)) {
        if word.len() > 8 {
            return None;
        }
        let bits = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| from + bit));
    }
    (text.split(',').count() <= CPUS_MAX as usize / 32).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ranges_and_groups() {
        assert_eq!(list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(list("managed_irq,domain,2-3"), Some(vec![2, 3]));
        assert_eq!(list("0-7:2/4"), Some(vec![0, 1, 4, 5]));
        for bad in ["3-1", "0-99999999", "1-", "-", "1;2", "0-7:2", "0-7:2/0", "0x3"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn masks_have_their_highest_word_first() {
        assert_eq!(mask("3"), Some(vec![0, 1]));
        assert_eq!(mask("00000000"), Some(vec![]));
        assert_eq!(mask("1,80000001"), Some(vec![0, 31, 32]));
        for bad in ["", "g", "1,,1", "123456789", "0x3"] {
            assert_eq!(mask(bad), None, "{bad}");
        }
    }
}
