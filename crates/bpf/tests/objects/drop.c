// A drop list: prefixes of source addresses, of both IP versions, with a count for each.
#include "bpf.h"

struct key4 { u32 len; u8 addr[4]; };
struct key6 { u32 len; u8 addr[16]; };

struct {
    __uint(type, LPM_TRIE);
    __uint(max_entries, 1000);
    __uint(map_flags, NO_PREALLOC);
    __type(key, struct key4);
    __type(value, u64);
} drop4 SEC(".maps");

struct {
    __uint(type, LPM_TRIE);
    __uint(max_entries, 1000);
    __uint(map_flags, NO_PREALLOC);
    __type(key, struct key6);
    __type(value, u64);
} drop6 SEC(".maps");

struct {
    __uint(type, PERCPU_ARRAY);
    __uint(max_entries, 3);
    __type(key, u32);
    __type(value, u64);
} seen SEC(".maps");

static void count(u32 what) {
    u64 *n = map_lookup(&seen, &what);
    if (n)
        *n += 1;
}

SEC("xdp") int drop_list(struct xdp_md *ctx) {
    void *data = DATA(ctx), *end = END(ctx);
    struct eth *eth = data;
    u64 *hits = 0;

    if (data + sizeof(*eth) > end)
        return ABORTED;
    if (eth->proto == htons(0x0800)) {
        struct ipv4 *ip = (void *)(eth + 1);
        struct key4 key = { 32 };
        if ((void *)(ip + 1) > end)
            return DROP;
        __builtin_memcpy(key.addr, &ip->src, 4);
        hits = map_lookup(&drop4, &key);
        count(0);
    } else if (eth->proto == htons(0x86dd)) {
        struct ipv6 *ip = (void *)(eth + 1);
        struct key6 key = { 128 };
        if ((void *)(ip + 1) > end)
            return DROP;
        __builtin_memcpy(key.addr, ip->src, 16);
        hits = map_lookup(&drop6, &key);
        count(1);
    } else {
        count(2);
    }
    if (!hits)
        return PASS;
    __sync_fetch_and_add(hits, 1);
    return DROP;
}

char _license[] SEC("license") = "MIT";
