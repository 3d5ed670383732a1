// Programs that do what the kernel's verifier lets nobody do.
#include "bpf.h"

struct {
    __uint(type, ARRAY);
    __uint(max_entries, 2);
    __type(key, u32);
    __type(value, u64);
} few SEC(".maps");

// Reads behind the packet's end.
SEC("xdp/outside") int outside(struct xdp_md *ctx) {
    u8 *end = END(ctx);
    return end[4000] ? PASS : DROP;
}

// Writes behind a map's value, over whatever lies there.
SEC("xdp/beyond") int beyond(struct xdp_md *ctx) {
    u32 key = 1;
    u64 *value = map_lookup(&few, &key);
    if (!value)
        return DROP;
    for (int i = 0; i < 1000; i++)
        ((volatile u64 *)value)[i] = i;
    return PASS;
}

// Follows a pointer that is none.
SEC("xdp/nowhere") int nowhere(struct xdp_md *ctx) {
    u32 key = 7;
    u64 *value = map_lookup(&few, &key);
    return *(volatile u64 *)value ? PASS : DROP;
}

// Never ends.
SEC("xdp/forever") int forever(struct xdp_md *ctx) {
    volatile u64 n = 0;
    for (;;)
        n++;
}

// What it says is no action.
SEC("xdp/odd") int odd(struct xdp_md *ctx) {
    return 77;
}

char _license[] SEC("license") = "GPL";
