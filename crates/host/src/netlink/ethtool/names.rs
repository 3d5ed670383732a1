//! Names in the order of the kernel's numbers, in ethtool's own words.

/// The `count` fields of the structure that the ioctl has for what these attributes say: the same ones
/// in the same order, where the attributes begin after the header.
const fn fields(attrs: &'static [&'static str], count: usize) -> &'static [&'static str] {
    attrs.split_at(2).1.split_at(count).0
}

/// `ETHTOOL_A_RINGS_*`, by the words of `ethtool -G`.
pub(crate) const RINGS: [&str; 19] = [
    "",
    "",
    "rx-max",
    "rx-mini-max",
    "rx-jumbo-max",
    "tx-max",
    "rx",
    "rx-mini",
    "rx-jumbo",
    "tx",
    "rx-buf-len",
    "tcp-data-split",
    "cqe-size",
    "tx-push",
    "rx-push",
    "tx-push-buf-len",
    "tx-push-buf-len-max",
    "hds-thresh",
    "hds-thresh-max",
];

/// `struct ethtool_ringparam` behind the command.
pub(super) const RINGS_IOCTL: &[&str] = fields(&RINGS, 8);

/// `ETHTOOL_A_CHANNELS_*`, by the words of `ethtool -L`.
pub(crate) const CHANNELS: [&str; 10] =
    ["", "", "rx-max", "tx-max", "other-max", "combined-max", "rx", "tx", "other", "combined"];

/// `struct ethtool_channels` behind the command.
pub(super) const CHANNELS_IOCTL: &[&str] = fields(&CHANNELS, 8);

/// `ETHTOOL_A_COALESCE_*`, by the words of `ethtool -C`.
pub(crate) const COALESCE: [&str; 33] = [
    "",
    "",
    "rx-usecs",
    "rx-frames",
    "rx-usecs-irq",
    "rx-frames-irq",
    "tx-usecs",
    "tx-frames",
    "tx-usecs-irq",
    "tx-frames-irq",
    "stats-block-usecs",
    "adaptive-rx",
    "adaptive-tx",
    "pkt-rate-low",
    "rx-usecs-low",
    "rx-frames-low",
    "tx-usecs-low",
    "tx-frames-low",
    "pkt-rate-high",
    "rx-usecs-high",
    "rx-frames-high",
    "tx-usecs-high",
    "tx-frames-high",
    "sample-interval",
    "cqe-mode-tx",
    "cqe-mode-rx",
    "tx-aggr-max-bytes",
    "tx-aggr-max-frames",
    "tx-aggr-time-usecs",
    "",
    "",
    "rx-cqe-frames",
    "rx-cqe-nsecs",
];

/// `struct ethtool_coalesce` behind the command.
pub(super) const COALESCE_IOCTL: &[&str] = fields(&COALESCE, 22);

/// `ETHTOOL_A_PAUSE_*`, by the words of `ethtool -A`.
pub(crate) const PAUSE: [&str; 5] = ["", "", "autoneg", "rx", "tx"];

/// `struct ethtool_pauseparam` behind the command.
pub(super) const PAUSE_IOCTL: &[&str] = fields(&PAUSE, 3);

/// `ETHTOOL_A_PAUSE_STAT_*`.
pub(super) const PAUSE_STATS: [&str; 5] =
    ["", "", "tx_pause_frames", "rx_pause_frames", "tx_pause_storm_events"];

/// `ETHTOOL_A_FEC_STAT_*`; the first number of each is the port's total.
pub(super) const FEC_STATS: [(u16, &str); 3] =
    [(2, "fec_corrected_blocks"), (3, "fec_uncorrectable_blocks"), (4, "fec_corrected_bits")];

/// `ETHTOOL_A_STATS_ETH_PHY_*` and the other groups by number: the names of IEEE 802.3 and RFC 2819.
pub(super) const STATS: [&[&str]; 4] = [
    &["SymbolErrorDuringCarrier"],
    &[
        "FramesTransmittedOK",
        "SingleCollisionFrames",
        "MultipleCollisionFrames",
        "FramesReceivedOK",
        "FrameCheckSequenceErrors",
        "AlignmentErrors",
        "OctetsTransmittedOK",
        "FramesWithDeferredXmissions",
        "LateCollisions",
        "FramesAbortedDueToXSColls",
        "FramesLostDueToIntMACXmitError",
        "CarrierSenseErrors",
        "OctetsReceivedOK",
        "FramesLostDueToIntMACRcvError",
        "MulticastFramesXmittedOK",
        "BroadcastFramesXmittedOK",
        "FramesWithExcessiveDeferral",
        "MulticastFramesReceivedOK",
        "BroadcastFramesReceivedOK",
        "InRangeLengthErrors",
        "OutOfRangeLengthField",
        "FrameTooLongErrors",
    ],
    &["MACControlFramesTransmitted", "MACControlFramesReceived", "UnsupportedOpcodesReceived"],
    &[
        "etherStatsUndersizePkts",
        "etherStatsOversizePkts",
        "etherStatsFragments",
        "etherStatsJabbers",
    ],
];

/// What `ethtool -k` and `-K` call one or more of the kernel's features: the long name, the short one,
/// and those features.
pub(crate) const FEATURE_GROUPS: [(&str, &str, &[&str]); 11] = [
    ("rx-checksumming", "rx", &["rx-checksum"]),
    (
        "tx-checksumming",
        "tx",
        &[
            "tx-checksum-ipv4",
            "tx-checksum-ip-generic",
            "tx-checksum-ipv6",
            "tx-checksum-fcoe-crc",
            "tx-checksum-sctp",
        ],
    ),
    ("scatter-gather", "sg", &["tx-scatter-gather", "tx-scatter-gather-fraglist"]),
    (
        "tcp-segmentation-offload",
        "tso",
        &[
            "tx-tcp-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-tcp6-segmentation",
            "tx-tcp-accecn-segmentation",
        ],
    ),
    ("generic-segmentation-offload", "gso", &["tx-generic-segmentation"]),
    ("generic-receive-offload", "gro", &["rx-gro"]),
    ("large-receive-offload", "lro", &["rx-lro"]),
    ("rx-vlan-offload", "rxvlan", &["rx-vlan-hw-parse"]),
    ("tx-vlan-offload", "txvlan", &["tx-vlan-hw-insert"]),
    ("ntuple-filters", "ntuple", &["rx-ntuple-filter"]),
    ("receive-hashing", "rxhash", &["rx-hashing"]),
];

/// Types of flows by the number of `ETHTOOL_GRXFH`, by the words of `ethtool -N ... rx-flow-hash`.
pub(crate) const FLOWS: [(u32, &str); 8] = [
    (1, "tcp4"),
    (2, "udp4"),
    (3, "sctp4"),
    (5, "tcp6"),
    (6, "udp6"),
    (7, "sctp6"),
    (16, "ip4"),
    (17, "ip6"),
];

/// `RXH_*` by bit, as letters of `rx-flow-hash`.
pub(crate) const HASH_FIELDS: [(u64, char); 8] = [
    (1 << 1, 'm'),
    (1 << 2, 'v'),
    (1 << 3, 't'),
    (1 << 4, 's'),
    (1 << 5, 'd'),
    (1 << 6, 'f'),
    (1 << 7, 'n'),
    (1 << 31, 'r'),
];

/// `ETH_RSS_HASH_*` by bit.
pub(super) const HASH_FUNCTIONS: [&str; 3] = ["toeplitz", "xor", "crc32"];
