//! The kernel's functions that programs may call here.
//!
//! Linux: include/uapi/linux/bpf.h, net/core/filter.c `xdp_func_proto`

mod names;

pub(crate) use names::NAMES;

macro_rules! helpers {
    ($($name:ident = $number:literal ($arguments:literal)),* $(,)?) => {
        /// A helper that programs may call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "they are the kernel's names")]
        pub enum Helper { $($name = $number),* }

        impl Helper {
            /// All of them.
            pub const ALL: &[Helper] = &[$(Helper::$name),*];

            /// The helper of this number, if programs may call it here.
            pub fn from_number(number: i32) -> Option<Helper> {
                match number {
                    $($number => Some(Helper::$name),)*
                    _ => None,
                }
            }
            /// How many arguments it reads.
            pub fn arguments(self) -> u8 {
                match self { $(Helper::$name => $arguments),* }
            }
        }
    };
}

helpers! {
    MapLookupElem = 1 (2),
    MapUpdateElem = 2 (4),
    MapDeleteElem = 3 (2),
    KtimeGetNs = 5 (0),
    TracePrintk = 6 (2),
    GetPrandomU32 = 7 (0),
    GetSmpProcessorId = 8 (0),
    TailCall = 12 (3),
    Redirect = 23 (2),
    PerfEventOutput = 25 (5),
    CsumDiff = 28 (5),
    GetNumaNodeId = 42 (0),
    XdpAdjustHead = 44 (2),
    RedirectMap = 51 (3),
    XdpAdjustMeta = 54 (2),
    XdpAdjustTail = 65 (2),
    FibLookup = 69 (4),
    Jiffies64 = 118 (0),
    KtimeGetBootNs = 125 (0),
    RingbufOutput = 130 (4),
    RingbufReserve = 131 (3),
    RingbufSubmit = 132 (2),
    RingbufDiscard = 133 (2),
    RingbufQuery = 134 (2),
    KtimeGetCoarseNs = 160 (0),
    CheckMtu = 163 (5),
    Loop = 181 (4),
    Strncmp = 182 (3),
    XdpGetBuffLen = 188 (1),
    XdpLoadBytes = 189 (4),
    XdpStoreBytes = 190 (4),
    MapLookupPercpuElem = 195 (3),
}

impl Helper {
    /// Its name, without `bpf_`.
    pub fn name(self) -> &'static str {
        NAMES[self as u8 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_named_as_the_kernel_names_them() {
        for (helper, name) in [
            (Helper::MapLookupElem, "map_lookup_elem"),
            (Helper::TailCall, "tail_call"),
            (Helper::XdpAdjustHead, "xdp_adjust_head"),
            (Helper::FibLookup, "fib_lookup"),
            (Helper::RingbufQuery, "ringbuf_query"),
            (Helper::CheckMtu, "check_mtu"),
            (Helper::Loop, "loop"),
            (Helper::XdpStoreBytes, "xdp_store_bytes"),
            (Helper::MapLookupPercpuElem, "map_lookup_percpu_elem"),
        ] {
            assert_eq!(helper.name(), name);
        }
        for helper in Helper::ALL {
            assert_eq!(Helper::from_number(*helper as i32), Some(*helper));
            assert!(helper.arguments() <= 5, "{}", helper.name());
        }
    }
}
