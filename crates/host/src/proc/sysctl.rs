//! Sysctls of the path: which are read, and how their files map to names.

use super::value;
use crate::snapshot::Snapshot;

/// Those that hold for the namespace or the host, as the paths below `/proc/sys`. What this kernel or
/// this namespace does not offer is not in the snapshot.
pub const NAMES: &[&str] = &[
    "kernel/bpf_stats_enabled",
    "net/core/bpf_jit_enable",
    "net/core/busy_poll",
    "net/core/busy_read",
    "net/core/default_qdisc",
    "net/core/dev_weight",
    "net/core/dev_weight_rx_bias",
    "net/core/dev_weight_tx_bias",
    "net/core/flow_limit_cpu_bitmap",
    "net/core/flow_limit_table_len",
    "net/core/gro_normal_batch",
    "net/core/netdev_budget",
    "net/core/netdev_budget_usecs",
    "net/core/netdev_max_backlog",
    "net/core/netdev_tstamp_prequeue",
    "net/core/optmem_max",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/rps_default_mask",
    "net/core/rps_sock_flow_entries",
    "net/core/skb_defer_max",
    "net/core/somaxconn",
    "net/core/txrehash",
    "net/core/wmem_default",
    "net/core/wmem_max",
    "net/ipv4/conf/all/accept_local",
    "net/ipv4/conf/all/accept_redirects",
    "net/ipv4/conf/all/arp_announce",
    "net/ipv4/conf/all/arp_filter",
    "net/ipv4/conf/all/arp_ignore",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/log_martians",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/secure_redirects",
    "net/ipv4/conf/all/send_redirects",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv4/icmp_msgs_burst",
    "net/ipv4/icmp_msgs_per_sec",
    "net/ipv4/icmp_ratelimit",
    "net/ipv4/icmp_ratemask",
    "net/ipv4/ip_early_demux",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/ipfrag_high_thresh",
    "net/ipv4/ipfrag_low_thresh",
    "net/ipv4/ipfrag_max_dist",
    "net/ipv4/ipfrag_time",
    "net/ipv4/neigh/default/base_reachable_time_ms",
    "net/ipv4/neigh/default/gc_interval",
    "net/ipv4/neigh/default/gc_stale_time",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/neigh/default/unres_qlen_bytes",
    "net/ipv4/route/max_size",
    "net/ipv4/route/min_pmtu",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_adv_win_scale",
    "net/ipv4/tcp_allowed_congestion_control",
    "net/ipv4/tcp_autocorking",
    "net/ipv4/tcp_available_congestion_control",
    "net/ipv4/tcp_backlog_ack_defer",
    "net/ipv4/tcp_base_mss",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_dsack",
    "net/ipv4/tcp_early_demux",
    "net/ipv4/tcp_early_retrans",
    "net/ipv4/tcp_ecn",
    "net/ipv4/tcp_fack",
    "net/ipv4/tcp_fastopen",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_frto",
    "net/ipv4/tcp_keepalive_intvl",
    "net/ipv4/tcp_keepalive_probes",
    "net/ipv4/tcp_keepalive_time",
    "net/ipv4/tcp_limit_output_bytes",
    "net/ipv4/tcp_low_latency",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_max_reordering",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_min_snd_mss",
    "net/ipv4/tcp_moderate_rcvbuf",
    "net/ipv4/tcp_mtu_probing",
    "net/ipv4/tcp_no_metrics_save",
    "net/ipv4/tcp_notsent_lowat",
    "net/ipv4/tcp_orphan_retries",
    "net/ipv4/tcp_recovery",
    "net/ipv4/tcp_reordering",
    "net/ipv4/tcp_retries1",
    "net/ipv4/tcp_retries2",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_rto_max_ms",
    "net/ipv4/tcp_rto_min_us",
    "net/ipv4/tcp_sack",
    "net/ipv4/tcp_shrink_window",
    "net/ipv4/tcp_slow_start_after_idle",
    "net/ipv4/tcp_syn_linear_timeouts",
    "net/ipv4/tcp_syn_retries",
    "net/ipv4/tcp_synack_retries",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/tcp_tw_recycle",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_window_scaling",
    "net/ipv4/tcp_wmem",
    "net/ipv4/udp_early_demux",
    "net/ipv4/udp_mem",
    "net/ipv4/udp_rmem_min",
    "net/ipv4/udp_wmem_min",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/ip6frag_high_thresh",
    "net/ipv6/ip6frag_time",
    "net/ipv6/neigh/default/gc_thresh1",
    "net/ipv6/neigh/default/gc_thresh2",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/ipv6/route/max_size",
    "net/netfilter/nf_conntrack_acct",
    "net/netfilter/nf_conntrack_buckets",
    "net/netfilter/nf_conntrack_checksum",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_time_wait",
    "net/netfilter/nf_conntrack_udp_timeout",
    "net/netfilter/nf_conntrack_udp_timeout_stream",
    "vm/min_free_kbytes",
];

/// Those of one device, with `{}` where its name stands.
pub const DEV_NAMES: &[&str] = &[
    "net/ipv4/conf/{}/accept_local",
    "net/ipv4/conf/{}/accept_redirects",
    "net/ipv4/conf/{}/forwarding",
    "net/ipv4/conf/{}/rp_filter",
    "net/ipv4/conf/{}/secure_redirects",
    "net/ipv4/conf/{}/send_redirects",
    "net/ipv4/neigh/{}/unres_qlen_bytes",
];

/// The dotted name of a path below `/proc/sys`. A dot in a device's name becomes a slash, as
/// sysctl(8) writes it: `net/ipv4/conf/eth0.7/rp_filter` is `net.ipv4.conf.eth0/7.rp_filter`.
#[must_use]
pub fn dotted(path: &str) -> String {
    let swap = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    path.chars().map(swap).collect()
}

/// The path below `/proc/sys` of a dotted name.
#[must_use]
pub fn path(dotted: &str) -> String {
    // Its own inverse.
    self::dotted(dotted)
}

/// Fills [`Snapshot::sysctls`], and what of connection tracking are sysctls.
pub fn sysctl(path: &str, bytes: &[u8], into: &mut Snapshot) {
    let Some(text) = value(bytes) else {
        into.note(format!("/proc/sys/{path}"), "it is not the text of a sysctl");
        return;
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(name) = path.strip_prefix("net/netfilter/nf_conntrack_")
        && matches!(name, "count" | "max" | "buckets")
        && let Ok(number) = text.parse()
    {
        let table = &mut into.conntrack.get_or_insert_default().table;
        if table.is_empty() {
            *table = crate::Counters::new("/proc/sys/net/netfilter");
        }
        table.set(&format!("nf_conntrack_{name}"), number);
    }
    into.sysctls.insert(dotted(path), text);
}
