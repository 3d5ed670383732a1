// A rate limiter: a token bucket for each source address. The rate is a constant that whoever loads
// the program may set, before it is loaded.
#include "bpf.h"

// Packets a second, and how many may come at once.
const volatile u64 rate = 1000;
const volatile u64 burst = 8;

struct bucket { u64 tokens, last; };

struct {
    __uint(type, LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, u32);
    __type(value, struct bucket);
} buckets SEC(".maps");

u64 passed, limited;

SEC("xdp") int rate_limit(struct xdp_md *ctx) {
    void *data = DATA(ctx), *end = END(ctx);
    struct eth *eth = data;
    struct ipv4 *ip = (void *)(eth + 1);
    struct bucket *bucket, fresh;
    u64 now = ktime_get_ns(), earned;
    u32 src;

    if ((void *)(ip + 1) > end || eth->proto != htons(0x0800))
        return PASS;
    src = ip->src;
    bucket = map_lookup(&buckets, &src);
    if (!bucket) {
        fresh.tokens = burst - 1;
        fresh.last = now;
        map_update(&buckets, &src, &fresh, ANY);
        __sync_fetch_and_add(&passed, 1);
        return PASS;
    }
    earned = (now - bucket->last) * rate / 1000000000;
    if (earned > 0) {
        u64 tokens = bucket->tokens + earned;
        bucket->tokens = tokens > burst ? burst : tokens;
        bucket->last = now;
    }
    if (bucket->tokens == 0) {
        __sync_fetch_and_add(&limited, 1);
        return DROP;
    }
    bucket->tokens -= 1;
    __sync_fetch_and_add(&passed, 1);
    return PASS;
}

char _license[] SEC("license") = "MIT";
